-- All signals in time about the unread assignments: signals by assignment id, and signals by unit. A signal by unit
-- belongs to the unit's latest exposed assignment that is not after it or, within the tolerance, to its first. This must
-- be a statement after the one that locked the assignments, to see what others committed while it waited. One row of
-- arrays; names are concatenated, after their lengths. `derived`: Wald derived the signal from a response.
SELECT
    array_agg(owner), array_agg(logged.source), array_agg(logged.at), array_agg(logged.value),
    array_agg(logged.derived), array_agg(octet_length(logged.signal)), string_agg(logged.signal, '')
FROM unread
CROSS JOIN LATERAL (
    SELECT source, at, value, signal, starts_with(event_key, E'=\x1f') AS derived
    FROM signals
    WHERE assignment_id = unread.id
        AND at BETWEEN unread.assigned_at - %(tolerance_us)s * interval '1 microsecond' AND unread.deadline
    UNION ALL
    SELECT source, at, value, signal, false
    FROM unit_signals
    WHERE exposed AND experiment_id = unread.experiment_id AND unit_hash = unread.unit_hash
        AND at BETWEEN unread.assigned_at - %(tolerance_us)s * interval '1 microsecond' AND unread.deadline
        AND NOT EXISTS (
            SELECT FROM assignments AS earlier
            WHERE earlier.experiment_id = unread.experiment_id AND earlier.unit_hash = unread.unit_hash
                AND earlier.id < unread.id AND earlier.exposed
                AND unit_signals.at < unread.assigned_at
        )
        AND NOT EXISTS (
            SELECT FROM assignments AS later
            WHERE later.experiment_id = unread.experiment_id AND later.unit_hash = unread.unit_hash
                AND later.id > unread.id AND later.exposed AND later.assigned_at <= unit_signals.at
        )
) AS logged
