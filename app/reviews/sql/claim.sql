-- Lock the next item for a reviewer, who has no answer and no lease on it: items with labels first, so that they are
-- completed, then by rank. Concurrent claims skip it. The place is free in the newest version of the row.
SELECT i.id
FROM review_items AS i
WHERE i.state = 'open'
  AND i.taken < i.wanted
  AND (CAST(:experiment_id AS integer) IS NULL OR i.experiment_id = :experiment_id)
  AND (CAST(:queue AS text) IS NULL OR i.queue = :queue)
  AND NOT EXISTS (SELECT FROM reviews AS r WHERE r.item_id = i.id AND r.reviewer = :reviewer)
  AND NOT EXISTS (
      SELECT FROM review_leases AS l
      WHERE l.experiment_id = i.experiment_id AND l.reviewer = :reviewer AND NOT l.ended
  )
ORDER BY i.labelled DESC, i.rank
LIMIT 1
FOR UPDATE OF i SKIP LOCKED
