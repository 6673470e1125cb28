-- Set the draws of one experiment to what its log gives, in the epochs whose versions are all known; other epochs stay.
-- By unit: only the first exposed assignment of each unit counts. The caller holds a lock on draws. Returns the epochs and
-- variants that differed.
WITH logged AS (
    SELECT epoch, policy_version AS version, variant, count(*) AS assignments
    FROM assignments
    WHERE experiment_id = %(experiment_id)s AND exposed AND NOT (
        %(by_unit)s AND EXISTS (
            SELECT FROM assignments AS earlier
            WHERE earlier.experiment_id = assignments.experiment_id AND earlier.unit_hash = assignments.unit_hash
                AND earlier.id < assignments.id AND earlier.exposed
        )
    )
    GROUP BY epoch, policy_version, variant
),
known AS (
    SELECT logged.epoch, logged.variant, logged.assignments, weights
    FROM logged
    JOIN allocations ON allocations.experiment_id = %(experiment_id)s AND allocations.version = logged.version
    JOIN epochs ON epochs.experiment_id = %(experiment_id)s AND epochs.epoch = logged.epoch
    WHERE policy ->> 'kind' = ANY(%(kinds)s) AND variant < cardinality(weights) AND logged.epoch NOT IN (
        SELECT epoch
        FROM logged AS any_of
        WHERE NOT EXISTS (
            SELECT FROM allocations
            WHERE experiment_id = %(experiment_id)s AND allocations.version = any_of.version
        )
    )
),
counted AS (
    SELECT
        epoch, (arm.number - 1)::smallint AS variant,
        sum(CASE WHEN variant = arm.number - 1 THEN assignments ELSE 0 END)::bigint AS assignments,
        sum(assignments * arm.weight) AS probability_sum
    FROM known
    CROSS JOIN LATERAL unnest(weights) WITH ORDINALITY AS arm (weight, number)
    GROUP BY epoch, arm.number
)
INSERT INTO draws (experiment_id, epoch, variant, assignments, probability_sum)
SELECT %(experiment_id)s, epoch, variant, assignments, probability_sum
FROM counted
ON CONFLICT (experiment_id, epoch, variant) DO UPDATE SET
    assignments = excluded.assignments, probability_sum = excluded.probability_sum
    WHERE (draws.assignments, draws.probability_sum) <> (excluded.assignments, excluded.probability_sum)
RETURNING epoch, variant
