-- Log staged signals that are not in the log.
INSERT INTO signals (
    assignment_id, event_key, experiment_id, unit_hash, signal, source, value, at, received_at
)
SELECT assignment_id, event_key, experiment_id, unit_hash, signal, source, value, at, received_at
FROM staged_signals
ON CONFLICT (assignment_id, event_key) DO NOTHING
