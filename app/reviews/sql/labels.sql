-- Each item with a label: the mean of the newest labels of its reviewers.
WITH current AS (
    SELECT DISTINCT ON (r.item_id, r.reviewer) r.item_id, r.label, r.at
    FROM reviews AS r
    JOIN review_items AS i ON i.id = r.item_id
    WHERE i.experiment_id = :experiment_id
    ORDER BY r.item_id, r.reviewer, r.revision DESC
), labelled AS (
    SELECT item_id, avg(label)::float8 AS label, count(*) AS n_reviewers, max(at) AS at
    FROM current
    WHERE label IS NOT NULL
    GROUP BY item_id
)
SELECT i.*, l.label, l.n_reviewers, l.at, s.labels
FROM labelled AS l
JOIN review_items AS i ON i.id = l.item_id
JOIN review_settings AS s ON s.experiment_id = i.experiment_id AND s.revision = i.revision
ORDER BY i.id
