-- Experiments whose backfill has not finished, the oldest first.
SELECT experiment_id
FROM backfills
WHERE finished_at IS NULL
ORDER BY started_at, experiment_id
LIMIT %(limit)s
