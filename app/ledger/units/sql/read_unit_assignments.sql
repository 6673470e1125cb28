-- The first exposed assignments in their epochs of touched units that keep their variant. This must be a statement after
-- the one that locked the units, to see what others committed while it waited. One row of arrays.
SELECT
    array_agg(number), array_agg(id), array_agg(assigned_at), array_agg(deadline), array_agg(variant),
    array_agg(propensity), array_agg(reward)
FROM touched_units AS touched
CROSS JOIN LATERAL (
    SELECT id, assigned_at, deadline, variant, propensity, coalesce(reward, -1) AS reward
    FROM assignments
    WHERE experiment_id = touched.experiment_id AND unit_hash = touched.unit_hash
        AND epoch = touched.epoch AND exposed
    ORDER BY id
    LIMIT %(assignments_max)s
) AS first
WHERE assignment_id = '00000000-0000-0000-0000-000000000000'
