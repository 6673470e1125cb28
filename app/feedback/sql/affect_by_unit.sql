-- A newly exposed assignment may have signals by unit, and takes later ones over from the one before it.
INSERT INTO affected
SELECT nearest.experiment_id, nearest.unit_hash, nearest.id
FROM newly_exposed
CROSS JOIN LATERAL (
    SELECT experiment_id, unit_hash, id
    FROM assignments
    WHERE experiment_id = newly_exposed.experiment_id AND unit_hash = newly_exposed.unit_hash
        AND exposed AND id <= newly_exposed.id
    ORDER BY id DESC
    LIMIT 2
) AS nearest
WHERE EXISTS (
    SELECT FROM unit_signals
    WHERE experiment_id = newly_exposed.experiment_id AND unit_hash = newly_exposed.unit_hash
)
