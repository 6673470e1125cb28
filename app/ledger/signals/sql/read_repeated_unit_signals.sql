-- The same as read_repeated_signals, for signals by unit.
SELECT
    array_agg(number), array_agg(stored.value),
    array_agg(
        staged.event_key ^@ '='
        AND (staged.signal, staged.source, staged.value) <> (stored.signal, stored.source, stored.value)
    )
FROM staged_unit_signals AS staged
JOIN unit_signals AS stored USING (experiment_id, unit_hash, event_key)
WHERE stored.xmin <> pg_current_xact_id()::xid
