-- A newly exposed assignment may take over signals by unit: later signals from the assignment before it, and earlier
-- signals from the assignment after it, if that was the unit's first.
INSERT INTO affected
SELECT nearest.experiment_id, nearest.unit_hash, nearest.id
FROM staged_assignments AS staged
CROSS JOIN LATERAL (
    (
        SELECT experiment_id, unit_hash, id
        FROM assignments
        WHERE experiment_id = staged.experiment_id AND unit_hash = staged.unit_hash
            AND assignments.exposed AND id <= staged.id
        ORDER BY id DESC
        LIMIT 2
    )
    UNION ALL
    (
        SELECT experiment_id, unit_hash, id
        FROM assignments
        WHERE experiment_id = staged.experiment_id AND unit_hash = staged.unit_hash
            AND assignments.exposed AND id > staged.id
        ORDER BY id
        LIMIT 1
    )
) AS nearest
WHERE staged.exposed AND EXISTS (
    SELECT FROM unit_signals
    WHERE experiment_id = staged.experiment_id AND unit_hash = staged.unit_hash
)
