-- Delete versions older than :dense_s that are not the last of their minute and epoch. A version without a
-- successor is always kept. Looks back one day, so that the work does not grow with the history.
DELETE FROM allocations
WHERE (experiment_id, version) IN (
    SELECT experiment_id, version
    FROM (
        SELECT experiment_id, version,
               row_number() OVER (
                   PARTITION BY experiment_id, epoch, date_trunc('minute', created_at)
                   ORDER BY version DESC
               ) AS from_last
        FROM allocations
        WHERE created_at < date_trunc('minute', CAST(:now AS timestamptz) - make_interval(secs => :dense_s))
          AND created_at >= CAST(:now AS timestamptz) - make_interval(secs => :dense_s) - interval '1 day'
    ) AS numbered
    WHERE from_last > 1
    LIMIT :rows_max
)
