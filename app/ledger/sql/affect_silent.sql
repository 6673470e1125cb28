-- Exposed assignments with a deadline from the sweep's position to the watermark that are still pending, or whose
-- experiment has a metric that reads silence: the oldest first, and all of one deadline together. Moves the sweep's
-- position; its row is locked, so one sweep runs at a time.
WITH silent AS MATERIALIZED (
    SELECT experiment_id, unit_hash, id, deadline
    FROM assignments
    WHERE deadline >= (SELECT swept_until FROM horizons) AND deadline <= %(watermark)s AND exposed
        AND (
            outcome = 0
            OR experiment_id = ANY(%(reading_silence)s) AND deadline > (SELECT swept_until FROM horizons)
        )
    ORDER BY deadline
    FETCH FIRST %(rows_max)s ROWS WITH TIES
),
moved AS (
    UPDATE horizons
    SET swept_until = CASE
        WHEN (SELECT count(*) FROM silent) < %(rows_max)s THEN greatest(swept_until, %(watermark)s)
        ELSE (SELECT max(deadline) FROM silent)
    END
)
INSERT INTO affected
SELECT experiment_id, unit_hash, id
FROM silent
