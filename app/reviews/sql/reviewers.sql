-- Each reviewer of an experiment by the newest answer to each item. Corrections count the earlier answers.
WITH current AS (
    SELECT DISTINCT ON (r.item_id, r.reviewer) r.*
    FROM reviews AS r
    JOIN review_items AS i ON i.id = r.item_id
    WHERE i.experiment_id = :experiment_id
    ORDER BY r.item_id, r.reviewer, r.revision DESC
)
SELECT
    c.reviewer,
    k.name,
    count(c.label) AS labels,
    count(*) - count(c.label) AS skips,
    sum(c.revision - 1)::bigint AS corrections,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY c.seconds) AS seconds_median,
    max(c.at) AS last_at
FROM current AS c
LEFT JOIN api_keys AS k ON c.reviewer = 'key:' || k.id
GROUP BY c.reviewer, k.name
ORDER BY labels DESC, c.reviewer
LIMIT :rows_max
