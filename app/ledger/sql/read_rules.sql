-- Rules of some experiments: the parts of the definition that the ledger reads, and the number of variants. Also whether
-- signals by unit are logged, an epoch's policy learns more than the totals, or an epoch's shares move. Last come the
-- number of variants and the start of each epoch whose policy is not fixed, and the layouts of the totals.
SELECT
    id, definition -> 'reward', EXISTS (SELECT FROM unit_signals WHERE experiment_id = experiments.id),
    EXISTS (
        SELECT FROM epochs
        WHERE experiment_id = experiments.id
            AND (policy ->> 'kind' = ANY(%(kinds)s) OR policy ? 'forgetting')
    ),
    definition -> 'metrics', definition -> 'plan', definition ->> 'stickiness',
    EXISTS (
        SELECT FROM epochs WHERE experiment_id = experiments.id AND policy ->> 'kind' = ANY(%(moving)s)
    ),
    json_array_length(definition -> 'variants'),
    (
        SELECT
            json_object_agg(
                epoch,
                json_build_array(
                    coalesce(n_variants, json_array_length(definition -> 'variants')),
                    (extract(epoch FROM started_at) * 1000000)::bigint
                )
            )
        FROM epochs
        WHERE experiment_id = experiments.id AND policy ->> 'kind' <> 'fixed'
    ),
    layout, earlier_layouts
FROM experiments
WHERE id = ANY(%(ids)s)
