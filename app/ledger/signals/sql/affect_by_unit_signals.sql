-- Each staged signal by unit belongs to the unit's latest exposed assignment that is not after it. If there is none, it
-- belongs to the unit's first assignment, if that follows within the tolerance.
INSERT INTO affected
SELECT owner.experiment_id, owner.unit_hash, owner.id
FROM staged_unit_signals AS staged
CROSS JOIN LATERAL (
    (
        SELECT experiment_id, unit_hash, id
        FROM assignments
        WHERE experiment_id = staged.experiment_id AND unit_hash = staged.unit_hash
            AND exposed AND assigned_at <= staged.at
        ORDER BY id DESC
        LIMIT 1
    )
    UNION ALL
    SELECT experiment_id, unit_hash, id
    FROM (
        SELECT experiment_id, unit_hash, id, assigned_at
        FROM assignments
        WHERE experiment_id = staged.experiment_id AND unit_hash = staged.unit_hash AND exposed
        ORDER BY id
        LIMIT 1
    ) AS first
    WHERE assigned_at > staged.at AND assigned_at <= staged.at + %(tolerance_us)s * interval '1 microsecond'
) AS owner
