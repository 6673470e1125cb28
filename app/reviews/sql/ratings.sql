-- The newest label of each reviewer on the newest items that two reviewers have labelled.
WITH items AS (
    SELECT id, unit_hash
    FROM review_items
    WHERE experiment_id = :experiment_id
      AND labelled >= 2
      AND (CAST(:queue AS text) IS NULL OR queue = :queue)
    ORDER BY id DESC
    LIMIT :items_max
), current AS (
    SELECT DISTINCT ON (r.item_id, r.reviewer) r.item_id, r.reviewer, r.label, i.unit_hash
    FROM reviews AS r
    JOIN items AS i ON i.id = r.item_id
    ORDER BY r.item_id, r.reviewer, r.revision DESC
)
SELECT item_id, reviewer, label, unit_hash
FROM current
WHERE label IS NOT NULL
ORDER BY item_id, reviewer
