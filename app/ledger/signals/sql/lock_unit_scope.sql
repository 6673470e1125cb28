-- Lock the signals by unit that may belong to other assignments once these units are exposed, in key order. A transaction
-- that exposes the same units waits. Only signals between the first new exposure and the next known one may change.
INSERT INTO unit_scope
SELECT experiment_id, unit_hash, at, false, signal
FROM (
    SELECT stored.experiment_id, stored.unit_hash, stored.event_key, stored.at, stored.signal
    FROM exposed_units AS exposing
    JOIN unit_signals AS stored USING (experiment_id, unit_hash)
    LEFT JOIN LATERAL (
        SELECT assigned_at
        FROM assignments
        WHERE experiment_id = exposing.experiment_id AND unit_hash = exposing.unit_hash AND exposed
            AND assigned_at > exposing.until
        ORDER BY id
        LIMIT 1
    ) AS next ON true
    WHERE stored.at >= exposing.since AND (next.assigned_at IS NULL OR stored.at < next.assigned_at)
    ORDER BY stored.experiment_id, stored.unit_hash, stored.event_key
    FOR NO KEY UPDATE OF stored
) AS locked
