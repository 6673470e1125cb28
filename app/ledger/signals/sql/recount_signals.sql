-- Count an experiment's signals from its log, and read what is kept of them: one statement, so both are of one snapshot.
-- One row per name: the number in each state as in the model, the number of
-- values outside the declared range, the smallest and the largest value, and when the last signal came, in microseconds.
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
        stored.signal, stored.value, stored.received_at,
        CASE
            WHEN stored.at <= latest.deadline THEN 0
            WHEN latest.deadline IS NOT NULL THEN 3
            WHEN first.assigned_at <= stored.at + %(tolerance_us)s * interval '1 microsecond' THEN 0
            ELSE 2
        END
    FROM unit_signals AS stored
    LEFT JOIN LATERAL (
        SELECT deadline
        FROM assignments
        WHERE experiment_id = stored.experiment_id AND unit_hash = stored.unit_hash AND exposed
            AND assigned_at <= stored.at
        ORDER BY id DESC
        LIMIT 1
    ) AS latest ON true
    LEFT JOIN LATERAL (
        SELECT assigned_at
        FROM assignments
        WHERE experiment_id = stored.experiment_id AND unit_hash = stored.unit_hash AND exposed
        ORDER BY id
        LIMIT 1
    ) AS first ON true
    WHERE stored.experiment_id = %(experiment_id)s
)
SELECT
    false AS kept, signal,
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
UNION ALL
SELECT true, signal, ARRAY[counted, waiting, unknown_unit, late, early], out_of_range, NULL, NULL, NULL
FROM signal_totals
WHERE experiment_id = %(experiment_id)s
