-- Log staged signals by unit that are not in the log.
INSERT INTO unit_signals (experiment_id, unit_hash, event_key, signal, source, value, at, received_at)
SELECT experiment_id, unit_hash, event_key, signal, source, value, at, received_at
FROM staged_unit_signals
ON CONFLICT (experiment_id, unit_hash, event_key) DO NOTHING
