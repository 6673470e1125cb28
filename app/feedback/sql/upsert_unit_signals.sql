-- Log staged signals by unit. Each belongs to the unit's latest exposed assignment that is not after it.
WITH changed AS (
    INSERT INTO unit_signals AS stored (
        experiment_id, unit_hash, event_key, signal, source, value, at, received_at
    )
    SELECT DISTINCT ON (experiment_id, unit_hash, event_key)
        experiment_id, unit_hash, event_key, signal, source, value, at, received_at
    FROM staged_unit_signals
    ORDER BY experiment_id, unit_hash, event_key, value DESC
    ON CONFLICT (experiment_id, unit_hash, event_key) DO UPDATE
        SET value = excluded.value, received_at = excluded.received_at
        WHERE stored.event_key ^@ '#' AND excluded.value > stored.value
    RETURNING experiment_id, unit_hash, at
)
INSERT INTO affected
SELECT latest.experiment_id, latest.unit_hash, latest.id
FROM changed
CROSS JOIN LATERAL (
    SELECT experiment_id, unit_hash, id
    FROM assignments
    WHERE experiment_id = changed.experiment_id AND unit_hash = changed.unit_hash
        AND exposed AND assigned_at <= changed.at
    ORDER BY id DESC
    LIMIT 1
) AS latest
