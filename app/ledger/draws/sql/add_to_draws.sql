-- Add draws to their counts, and the published probabilities of their versions to the sums. Draws of policies that read
-- contexts, of fixed policies and of versions that are not known any more are left out of both, whatever they drew.
WITH known AS (
    SELECT drawn.experiment_id, allocations.epoch, drawn.variant, drawn.assignments, allocations.weights
    FROM unnest(
        %(experiment_id)s::integer[], %(version)s::integer[], %(variant)s::smallint[], %(assignments)s::bigint[]
    ) AS drawn (experiment_id, version, variant, assignments)
    JOIN allocations USING (experiment_id, version)
    JOIN epochs ON epochs.experiment_id = drawn.experiment_id AND epochs.epoch = allocations.epoch
    WHERE policy ->> 'kind' = ANY(%(kinds)s) AND variant < cardinality(weights)
)
INSERT INTO draws (experiment_id, epoch, variant, assignments, probability_sum)
SELECT
    experiment_id, epoch, arm.number - 1,
    sum(CASE WHEN variant = arm.number - 1 THEN assignments ELSE 0 END), sum(assignments::numeric * arm.weight)
FROM known
CROSS JOIN LATERAL unnest(weights) WITH ORDINALITY AS arm (weight, number)
GROUP BY experiment_id, epoch, arm.number
ORDER BY experiment_id, epoch, arm.number
ON CONFLICT (experiment_id, epoch, variant) DO UPDATE SET
    assignments = draws.assignments + excluded.assignments,
    probability_sum = draws.probability_sum + excluded.probability_sum
