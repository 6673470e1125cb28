-- The context of the first exposed assignment of each touched unit.
SELECT number, context
FROM touched_units
CROSS JOIN LATERAL (
    SELECT context
    FROM assignments
    WHERE experiment_id = touched_units.experiment_id AND unit_hash = touched_units.unit_hash
        AND epoch = touched_units.epoch AND exposed
        AND assignment_id IN (id, '00000000-0000-0000-0000-000000000000')
    ORDER BY id
    LIMIT 1
) AS first
