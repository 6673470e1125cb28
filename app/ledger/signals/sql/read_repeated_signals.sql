-- Staged signals that were logged before this transaction, with the logged value, and whether the client gave one id to
-- two different events. One row of arrays.
SELECT
    array_agg(number), array_agg(stored.value),
    array_agg(
        staged.event_key ^@ '='
        AND (staged.signal, staged.source, staged.value) <> (stored.signal, stored.source, stored.value)
    )
FROM staged_signals AS staged
JOIN signals AS stored USING (assignment_id, event_key)
WHERE stored.xmin <> pg_current_xact_id()::xid
