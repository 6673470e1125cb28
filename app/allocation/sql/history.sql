-- The first version of an experiment's allocation, and the last one in each of :buckets equal spans of time,
-- of those not after :until.
WITH span AS (
    SELECT min(created_at) AS first_at, max(created_at) AS last_at, min(version) AS first_version
    FROM allocations
    WHERE experiment_id = :experiment_id
      AND created_at <= coalesce(CAST(:until AS timestamptz), 'infinity')
),
placed AS (
    SELECT a.version, a.epoch, a.weights, a.created_at, a.version = s.first_version AS is_first,
           -- The last moment falls into a bucket of its own, which is joined to the one before.
           least(CAST(:buckets AS integer) - 1, floor(CAST(:buckets AS integer)
               * extract(epoch FROM a.created_at - s.first_at)
               / greatest(extract(epoch FROM s.last_at - s.first_at), 1e-6))) AS bucket
    FROM allocations AS a CROSS JOIN span AS s
    WHERE a.experiment_id = :experiment_id
      AND a.created_at <= coalesce(CAST(:until AS timestamptz), 'infinity')
)
SELECT version, epoch, weights, created_at
FROM (
    SELECT DISTINCT ON (is_first, bucket) version, epoch, weights, created_at
    FROM placed
    ORDER BY is_first, bucket, version DESC
) AS kept
ORDER BY version
