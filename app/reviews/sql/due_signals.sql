-- The next assignments with answers that no signal takes in yet: the mean score of all their items in the sample. The
-- assignment id's body is that of the response. Without one, or without a label, nothing can be sent.
WITH due AS (
    SELECT DISTINCT assignment
    FROM (
        SELECT assignment
        FROM review_items
        WHERE queue = 'sample' AND signalled < answers
        ORDER BY id
        LIMIT :rows_max
    ) AS oldest
), labelled AS (
    SELECT i.assignment, i.id, i.answers, i.changed_at, i.response_key, s.labels, avg(c.label) AS label
    FROM due AS d
    JOIN review_items AS i ON i.assignment = d.assignment AND i.queue = 'sample'
    JOIN review_settings AS s ON s.experiment_id = i.experiment_id AND s.revision = i.revision
    LEFT JOIN LATERAL (
        SELECT DISTINCT ON (r.reviewer) r.label
        FROM reviews AS r
        WHERE r.item_id = i.id
        ORDER BY r.reviewer, r.revision DESC
    ) AS c ON true
    GROUP BY i.id, s.labels
), scored AS (
    SELECT l.*, (l.label - b.low) / (b.high - b.low) AS score
    FROM labelled AS l
    CROSS JOIN LATERAL (
        SELECT min(digit::integer) AS low, max(digit::integer) AS high FROM jsonb_object_keys(l.labels) AS digit
    ) AS b
)
SELECT
    s.assignment,
    (array_agg(k.assignment) FILTER (WHERE k.assignment IS NOT NULL))[1] AS body,
    avg(s.score)::float8 AS score,
    max(s.changed_at) AS at,
    array_agg(s.id ORDER BY s.id) AS item_ids,
    array_agg(s.answers ORDER BY s.id) AS answers
FROM scored AS s
LEFT JOIN response_keys AS k ON k.response_key = s.response_key
GROUP BY s.assignment
