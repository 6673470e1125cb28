-- The answers to the next items: the newest of each reviewer, or all revisions.
WITH page AS (
    SELECT *
    FROM review_items
    WHERE experiment_id = :experiment_id AND id > :after AND answers > 0
    ORDER BY id
    LIMIT :items_max
)
SELECT
    i.*, e.key AS experiment, r.reviewer, k.name, r.revision AS answer_revision, r.label, r.reason, r.comment, r.seconds,
    r.at
FROM page AS i
JOIN experiments AS e ON e.id = i.experiment_id
JOIN LATERAL (
    SELECT a.*, a.revision = max(a.revision) OVER (PARTITION BY a.reviewer) AS newest
    FROM reviews AS a
    WHERE a.item_id = i.id
) AS r ON r.newest OR :revisions
LEFT JOIN api_keys AS k ON r.reviewer = 'key:' || k.id
ORDER BY i.id, r.reviewer, r.revision
