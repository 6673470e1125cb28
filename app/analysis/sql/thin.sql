-- Of readouts older than :dense_s keep the last in five minutes, of those older than :medium_s the last in an
-- hour. Looks back one day behind either age, so that the work does not grow with the history.
DELETE FROM readouts
WHERE (experiment_id, at) IN (
    SELECT experiment_id, at
    FROM (
        SELECT experiment_id, at,
               row_number() OVER (PARTITION BY experiment_id, span, date_bin(span, at, 'epoch') ORDER BY at DESC)
                   AS from_last
        FROM (
            SELECT experiment_id, at,
                   CASE WHEN at < date_trunc('hour', CAST(:now AS timestamptz) - make_interval(secs => :medium_s))
                        THEN interval '1 hour' ELSE interval '5 minutes' END AS span
            FROM readouts
            WHERE at < date_bin('5 minutes', CAST(:now AS timestamptz) - make_interval(secs => :dense_s), 'epoch')
              AND at >= CAST(:now AS timestamptz) - make_interval(secs => :medium_s) - interval '1 day'
        ) AS aged
    ) AS numbered
    WHERE from_last > 1
    LIMIT :rows_max
)
