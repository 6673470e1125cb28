-- Of units with newly exposed assignments, `id` being the earliest of a unit's `ids`: those that had no exposed
-- assignment before it, each with the version and variant of the one that was its first until now, if there was any.
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
