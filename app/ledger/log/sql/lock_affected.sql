-- Lock the affected assignments, in key order. One row of arrays.
SELECT
    array_agg(place), array_agg(experiment_id), array_agg(unit_hash), array_agg(id), array_agg(assigned_at),
    array_agg(deadline), array_agg(epoch), array_agg(variant), array_agg(propensity), array_agg(exposed),
    array_agg(outcome), array_agg(reward)
FROM (
    SELECT
        assignments.ctid AS place, experiment_id, unit_hash, id, assigned_at, deadline, epoch, variant,
        propensity, exposed, outcome, coalesce(reward, -1) AS reward
    FROM (SELECT DISTINCT experiment_id, unit_hash, id FROM affected) AS affected
    JOIN assignments USING (experiment_id, unit_hash, id)
    ORDER BY experiment_id, unit_hash, id
    FOR NO KEY UPDATE OF assignments
) AS stored
