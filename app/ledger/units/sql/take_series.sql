-- Delete and return at most rows_max series of a span that begin before a minute, the oldest first. Rows that another
-- transaction has locked are left for the next time.
DELETE FROM metric_series
WHERE (experiment_id, minute, span, epoch, variant, crossed) IN (
    SELECT experiment_id, minute, span, epoch, variant, crossed
    FROM metric_series
    WHERE span = %(span)s AND minute < %(before)s
        AND experiment_id NOT IN (SELECT id FROM experiments WHERE earlier_layouts::text <> '[]')
    ORDER BY minute
    LIMIT %(rows_max)s
    FOR UPDATE SKIP LOCKED
)
RETURNING experiment_id, minute, span, epoch, variant, crossed, body
