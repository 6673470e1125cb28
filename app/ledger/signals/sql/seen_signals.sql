-- What the newest experiments have received of some signals: in all of them, in one experiment, and the 0.9-quantile of
-- the delay in the latest other experiment that has enough of them. Delays are of a random part of its assignments,
-- because hashes of units are keyed.
WITH seen AS (
    SELECT
        signal,
        sum(counted + waiting + unknown_unit + late + early)::bigint AS total,
        coalesce(
            sum(counted + waiting + unknown_unit + late + early) FILTER (WHERE experiment_id = :experiment_id), 0
        )::bigint AS here,
        (
            array_agg(experiment_id ORDER BY last_at DESC NULLS LAST)
            FILTER (WHERE experiment_id <> :experiment_id AND counted + late >= :signals_min)
        )[1] AS latest
    FROM signal_totals
    WHERE signal = ANY(:names)
        AND experiment_id IN (SELECT id FROM experiments ORDER BY id DESC LIMIT :experiments_max)
    GROUP BY signal
)
SELECT seen.signal, seen.total, seen.here, delays.delay_s, coalesce(experiments.key, '') AS source
FROM seen
LEFT JOIN experiments ON experiments.id = seen.latest
LEFT JOIN LATERAL (
    SELECT percentile_cont(0.9) WITHIN GROUP (ORDER BY extract(epoch FROM signals.at - sampled.assigned_at)) AS delay_s
    FROM (
        SELECT id, assigned_at
        FROM assignments
        WHERE experiment_id = seen.latest AND exposed
        ORDER BY unit_hash, id
        LIMIT :assignments_max
    ) AS sampled
    JOIN signals ON signals.assignment_id = sampled.id AND signals.signal = seen.signal
) AS delays ON true
