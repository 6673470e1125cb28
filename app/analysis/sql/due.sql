-- Experiments whose totals, definition or state have changed since their last readout, which is :interval_s old;
-- and frozen ones, whose causes may have passed. Those without a readout first, then the longest unread.
SELECT p.experiment_id
FROM publications AS p
JOIN experiments AS e ON e.id = p.experiment_id AND e.state ->> 'kind' NOT IN ('draft', 'archived')
LEFT JOIN LATERAL (
    SELECT r.at, r.wanted FROM readouts AS r
    WHERE r.experiment_id = p.experiment_id
    ORDER BY r.at DESC LIMIT 1
) AS last ON true
WHERE last.at IS NULL
   OR last.at < CAST(:now AS timestamptz) - make_interval(secs => :interval_s)
      AND (last.wanted < p.wanted
           OR EXISTS (SELECT FROM freezes AS f WHERE f.experiment_id = e.id AND f.lifted_at IS NULL))
ORDER BY last.at NULLS FIRST
LIMIT :limit
