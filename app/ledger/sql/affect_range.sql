-- The next assignments of an experiment in key order.
INSERT INTO affected
SELECT experiment_id, unit_hash, id
FROM assignments
WHERE experiment_id = %(experiment_id)s AND (unit_hash, id) > (%(unit_hash)s, %(id)s)
ORDER BY unit_hash, id
LIMIT %(rows_max)s
RETURNING unit_hash, id
