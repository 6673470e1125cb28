-- Exposed assignments still pending at their deadline, or of experiments to whose metrics silence tells something, from
-- where the sweep was up to the watermark, oldest first; of one deadline all. The sweep moves on. Its row is locked, so
-- there is one at a time.
WITH silent AS MATERIALIZED (
    SELECT experiment_id, unit_hash, id, deadline
    FROM assignments
    WHERE deadline >= (SELECT swept_until FROM horizons) AND deadline <= %(watermark)s AND exposed
        AND (
            outcome = 0
            OR experiment_id = ANY(%(hearing)s) AND deadline > (SELECT swept_until FROM horizons)
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
