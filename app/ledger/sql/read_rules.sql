-- Rules of some experiments: the parts of the definition that the ledger reads, and the number of variants. Also whether
-- signals by unit are logged, an epoch's policy learns more than the totals, or an epoch's shares move.
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
    json_array_length(definition -> 'variants')
FROM experiments
WHERE id = ANY(%(ids)s)
