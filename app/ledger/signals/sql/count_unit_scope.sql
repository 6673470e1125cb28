-- Count the signals by unit in scope by experiment, name, whether they are new, and state, numbered as in the model
-- (0 counted, 2 unknown unit, 3 late).
SELECT experiment_id, signal, fresh, state, count(*)
FROM (
    SELECT
        scope.experiment_id, scope.signal, scope.fresh,
        CASE
            WHEN scope.at <= latest.deadline THEN 0
            WHEN latest.deadline IS NOT NULL THEN 3
            WHEN first.assigned_at <= scope.at + %(tolerance_us)s * interval '1 microsecond' THEN 0
            ELSE 2
        END AS state
    FROM unit_scope AS scope
    LEFT JOIN LATERAL (
        SELECT deadline
        FROM assignments
        WHERE experiment_id = scope.experiment_id AND unit_hash = scope.unit_hash AND exposed
            AND assigned_at <= scope.at
        ORDER BY id DESC
        LIMIT 1
    ) AS latest ON true
    LEFT JOIN LATERAL (
        SELECT assigned_at
        FROM assignments
        WHERE experiment_id = scope.experiment_id AND unit_hash = scope.unit_hash AND exposed
        ORDER BY id
        LIMIT 1
    ) AS first ON true
) AS scoped
GROUP BY experiment_id, signal, fresh, state
