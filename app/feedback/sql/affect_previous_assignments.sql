-- A newly exposed assignment takes over the later signals by unit from the exposed one before it.
INSERT INTO affected
SELECT DISTINCT previous.experiment_id, previous.unit_hash, previous.id, true
FROM affected AS exposure
CROSS JOIN LATERAL (
    SELECT experiment_id, unit_hash, id
    FROM assignments
    WHERE experiment_id = exposure.experiment_id AND unit_hash = exposure.unit_hash
        AND exposed AND id < exposure.id
    ORDER BY id DESC
    LIMIT 1
) AS previous
WHERE NOT exposure.counted
    AND EXISTS (
        SELECT FROM unit_signals
        WHERE experiment_id = exposure.experiment_id AND unit_hash = exposure.unit_hash
    )
    AND previous.id NOT IN (SELECT id FROM affected)
