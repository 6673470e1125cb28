-- Log staged signals. With a client's id (=) the first stays. Without one the newest replaces what is stored, those
-- in time (#) apart from those after the deadline (+). What did not change is not counted as a row.
INSERT INTO signals AS stored (
    assignment_id, event_key, experiment_id, unit_hash, signal, source, value, at, received_at
)
SELECT assignment_id, event_key, experiment_id, unit_hash, signal, source, value, at, received_at
FROM staged_signals
ON CONFLICT (assignment_id, event_key) DO UPDATE
    SET value = excluded.value, at = excluded.at, received_at = excluded.received_at
    WHERE NOT stored.event_key ^@ '=' AND (excluded.at, excluded.value) > (stored.at, stored.value)
