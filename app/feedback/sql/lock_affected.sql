-- In key order, so that two transactions do not wait for each other. What is computed from the log has to be read
-- by a later statement: only that one sees what others committed while this one waited for its locks.
INSERT INTO locked
SELECT *
FROM (
    SELECT
        assignments.ctid, experiment_id, unit_hash, id, assigned_at, deadline, epoch, variant, exposed,
        outcome, reward, id NOT IN (SELECT id FROM newly_exposed)
    FROM (SELECT DISTINCT experiment_id, unit_hash, id FROM affected) AS affected
    JOIN assignments USING (experiment_id, unit_hash, id)
    ORDER BY experiment_id, unit_hash, id
    FOR NO KEY UPDATE OF assignments
) AS stored
