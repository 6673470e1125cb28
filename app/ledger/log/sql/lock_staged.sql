-- Lock the staged assignments that are stored, in key order, so that two transactions cannot deadlock. After this, no
-- other transaction logs a signal about them. One row of arrays: their numbers and the columns that may change.
SELECT
    array_agg(number), array_agg(place), array_agg(deadline), array_agg(exposed), array_agg(outcome),
    array_agg(reward)
FROM (
    SELECT
        number, assignments.ctid AS place, deadline, assignments.exposed, outcome, coalesce(reward, -1) AS reward
    FROM staged_keys
    JOIN assignments USING (experiment_id, unit_hash, id)
    ORDER BY experiment_id, unit_hash, id
    FOR NO KEY UPDATE OF assignments
) AS stored
