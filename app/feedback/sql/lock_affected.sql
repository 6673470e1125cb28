-- In key order, so that two transactions never wait for each other.
SELECT
FROM assignments
JOIN affected USING (experiment_id, unit_hash, id)
ORDER BY experiment_id, unit_hash, id
FOR NO KEY UPDATE OF assignments
