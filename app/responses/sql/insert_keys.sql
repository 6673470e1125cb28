-- Store the keys that are new, in the given order, and return them. A response whose unit has no assignment yet waits
-- without a place in the order.
INSERT INTO response_keys (response_key, experiment_id, unit_hash, expires_on, id_hash, assignment, seq)
SELECT
    response_key, experiment_id, unit_hash, expires_on, id_hash, assignment,
    CASE WHEN assignment IS NOT NULL THEN nextval('response_seq') END
FROM unnest(
    %(keys)s::uuid[], %(experiment_ids)s::integer[], %(unit_hashes)s::bigint[], %(days)s::date[], %(id_hashes)s::bigint[],
    %(assignments)s::bytea[]
) AS new (response_key, experiment_id, unit_hash, expires_on, id_hash, assignment)
ON CONFLICT (response_key) DO NOTHING
RETURNING response_key
