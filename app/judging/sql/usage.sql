-- Of the version :version: its judgements by state, its calls, those without a price, their cost, and the times of
-- its answered calls.
SELECT j.judged, j.unscored, j.wanted, c.calls, c.unpriced, c.cost_usd, c.median_s, c.p95_s
FROM (
    SELECT
        count(*) FILTER (WHERE state = 'judged') AS judged,
        count(*) FILTER (WHERE state = 'unscored') AS unscored,
        count(*) FILTER (WHERE state = 'wanted') AS wanted
    FROM judgements
    WHERE version_hash = :version
) AS j
CROSS JOIN (
    SELECT
        count(*) AS calls,
        count(*) FILTER (WHERE a.cost_usd IS NULL) AS unpriced,
        coalesce(sum(a.cost_usd), 0) AS cost_usd,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY a.seconds) FILTER (WHERE a.status = 200) AS median_s,
        percentile_cont(0.95) WITHIN GROUP (ORDER BY a.seconds) FILTER (WHERE a.status = 200) AS p95_s
    FROM judgement_attempts AS a
    JOIN judgements AS i ON i.id = a.judgement_id
    WHERE i.version_hash = :version
) AS c
