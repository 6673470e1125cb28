-- The responses with these response_ids, in any experiment.
SELECT id_hash, response_key, experiment_id, assignment
FROM response_keys
WHERE id_hash = ANY(%(id_hashes)s)
