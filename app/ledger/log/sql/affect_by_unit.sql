-- A newly exposed assignment may have signals by unit: it takes later ones over from the one before it, and earlier ones
-- from the one after it, where that was the unit's first.
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
