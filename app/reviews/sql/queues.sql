-- Items of an experiment by queue: how many are in each state, and how many reviews they have and want.
SELECT
    queue,
    count(*) AS items,
    count(*) FILTER (WHERE state = 'open') AS open,
    count(*) FILTER (WHERE state = 'done') AS done,
    count(*) FILTER (WHERE state = 'given_up') AS given_up,
    count(*) FILTER (WHERE taken > labelled) AS claimed,
    coalesce(sum(labelled), 0)::bigint AS labels,
    coalesce(sum(skipped), 0)::bigint AS skips,
    coalesce(sum(wanted - labelled) FILTER (WHERE state = 'open'), 0)::bigint AS missing
FROM review_items
WHERE experiment_id = :experiment_id
GROUP BY queue
ORDER BY queue
