-- The totals of an experiment's signals by its log: per name the states as in the model, how many values are outside of the
-- declared range, the least and the greatest value, and when the last came, in microseconds.
WITH logged AS (
    SELECT
        stored.signal, stored.value, stored.received_at,
        CASE
            WHEN stored.at > assignments.deadline THEN 3
            WHEN stored.at < assignments.assigned_at - %(tolerance_us)s * interval '1 microsecond' THEN 4
            WHEN assignments.exposed THEN 0
            ELSE 1
        END AS state
    FROM signals AS stored
    JOIN assignments
        ON assignments.experiment_id = %(experiment_id)s AND assignments.unit_hash = stored.unit_hash
            AND assignments.id = stored.assignment_id
    WHERE stored.experiment_id = %(experiment_id)s
    UNION ALL
    SELECT
        told.signal, told.value, told.received_at,
        CASE
            WHEN told.at <= latest.deadline THEN 0
            WHEN latest.deadline IS NOT NULL THEN 3
            WHEN first.assigned_at <= told.at + %(tolerance_us)s * interval '1 microsecond' THEN 0
            ELSE 2
        END
    FROM unit_signals AS told
    LEFT JOIN LATERAL (
        SELECT deadline
        FROM assignments
        WHERE experiment_id = told.experiment_id AND unit_hash = told.unit_hash AND exposed
            AND assigned_at <= told.at
        ORDER BY id DESC
        LIMIT 1
    ) AS latest ON true
    LEFT JOIN LATERAL (
        SELECT assigned_at
        FROM assignments
        WHERE experiment_id = told.experiment_id AND unit_hash = told.unit_hash AND exposed
        ORDER BY id
        LIMIT 1
    ) AS first ON true
    WHERE told.experiment_id = %(experiment_id)s
)
SELECT
    signal,
    ARRAY[
        count(*) FILTER (WHERE state = 0), count(*) FILTER (WHERE state = 1), count(*) FILTER (WHERE state = 2),
        count(*) FILTER (WHERE state = 3), count(*) FILTER (WHERE state = 4)
    ],
    count(*) FILTER (WHERE value < low OR value > high), min(value), max(value),
    (extract(epoch FROM max(received_at)) * 1000000)::bigint
FROM logged
LEFT JOIN unnest(%(named)s::text[], %(lows)s::double precision[], %(highs)s::double precision[])
    AS declared (name, low, high) ON declared.name = logged.signal
GROUP BY signal
