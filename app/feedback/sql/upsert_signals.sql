-- Log staged signals. Without a client id (#) the newest replaces what is stored; with one (=) the first stays.
WITH changed AS (
    INSERT INTO signals AS stored (
        assignment_id, event_key, experiment_id, unit_hash, signal, source, value, at, received_at
    )
    SELECT assignment_id, event_key, experiment_id, unit_hash, signal, source, value, at, received_at
    FROM staged_signals
    ORDER BY assignment_id, event_key COLLATE "C"
    ON CONFLICT (assignment_id, event_key) DO UPDATE
        SET value = excluded.value, at = excluded.at, received_at = excluded.received_at
        WHERE stored.event_key ^@ '#' AND (excluded.at, excluded.value) > (stored.at, stored.value)
    RETURNING experiment_id, unit_hash, assignment_id
)
INSERT INTO affected
SELECT experiment_id, unit_hash, assignment_id
FROM changed
