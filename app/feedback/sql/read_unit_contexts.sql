-- The context of the first exposed assignment of each touched unit.
SELECT number, context
FROM touched_units
CROSS JOIN LATERAL (
    SELECT context
    FROM assignments
    WHERE experiment_id = touched_units.experiment_id AND unit_hash = touched_units.unit_hash
        AND epoch = touched_units.epoch AND exposed
    ORDER BY id
    LIMIT 1
) AS first
