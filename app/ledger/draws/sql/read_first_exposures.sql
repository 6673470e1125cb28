-- The units with newly exposed assignments that had no exposed assignment before. `ids` are all new assignments of a
-- unit, and `id` is the earliest. Also returns the version and variant of the assignment that was the unit's first until
-- now, if there was one.
SELECT number, was.policy_version, was.variant
FROM unnest(%(experiment_id)s::integer[], %(unit_hash)s::bigint[], %(id)s::uuid[], %(ids)s::text[])
    WITH ORDINALITY AS fresh (experiment_id, unit_hash, id, ids, number)
LEFT JOIN LATERAL (
    SELECT policy_version, variant
    FROM assignments
    WHERE experiment_id = fresh.experiment_id AND unit_hash = fresh.unit_hash AND assignments.id > fresh.id AND exposed
        AND assignments.id <> ALL (fresh.ids::uuid[])
    ORDER BY assignments.id
    LIMIT 1
) AS was ON true
WHERE NOT EXISTS (
    SELECT FROM assignments
    WHERE experiment_id = fresh.experiment_id AND unit_hash = fresh.unit_hash AND assignments.id < fresh.id AND exposed
)
