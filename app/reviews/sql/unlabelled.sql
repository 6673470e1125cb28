-- The next items that want labels, in the order of claims.
SELECT id, response_key, response_id, rank
FROM review_items
WHERE experiment_id = :experiment_id
  AND state = 'open'
  AND taken < wanted
  AND (CAST(:after AS bigint) IS NULL OR rank > :after)
ORDER BY rank
LIMIT :items_max
