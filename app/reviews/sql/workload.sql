-- Experiments with items that a reviewer may claim or holds, and with items that the reviewer has answered.
SELECT e.key, coalesce(o.open, 0) AS open, coalesce(a.answered, 0) AS answered
FROM experiments AS e
LEFT JOIN (
    SELECT i.experiment_id, count(*) AS open
    FROM review_items AS i
    WHERE i.state = 'open'
      AND NOT EXISTS (SELECT FROM reviews AS r WHERE r.item_id = i.id AND r.reviewer = :reviewer)
      AND (
          i.taken < i.wanted
          OR EXISTS (
              SELECT FROM review_leases AS l WHERE l.item_id = i.id AND l.reviewer = :reviewer AND NOT l.ended
          )
      )
    GROUP BY i.experiment_id
) AS o ON o.experiment_id = e.id
LEFT JOIN (
    SELECT i.experiment_id, count(*) AS answered
    FROM reviews AS r
    JOIN review_items AS i ON i.id = r.item_id
    WHERE r.reviewer = :reviewer AND r.revision = 1
    GROUP BY i.experiment_id
) AS a ON a.experiment_id = e.id
WHERE (o.open > 0 OR a.answered > 0) AND (CAST(:key AS text) IS NULL OR e.key = :key)
ORDER BY e.key
