-- Store staged assignments. A conflict locks the stored row even where it changes nothing: from here on this
-- transaction is the only one that may change rewards of the staged assignments. Returns newly exposed ones.
WITH stored AS (
    INSERT INTO assignments AS stored (
        experiment_id, unit_hash, id, unit, assigned_at, deadline, epoch, policy_version, variant, propensity,
        context, exposed
    )
    SELECT
        staged.experiment_id, unit_hash, staged.id, unit, assigned_at,
        assigned_at + (definition -> 'reward' ->> 'horizon_s')::double precision * interval '1 second',
        staged.epoch, policy_version, variant, propensity, context, exposed
    FROM staged_assignments AS staged
    JOIN experiments ON experiments.id = staged.experiment_id
    ORDER BY staged.experiment_id, unit_hash, staged.id
    ON CONFLICT (experiment_id, unit_hash, id) DO UPDATE
        SET unit = excluded.unit, context = excluded.context, exposed = true
        WHERE excluded.exposed AND NOT stored.exposed
    RETURNING experiment_id, unit_hash, id, exposed
)
INSERT INTO affected
SELECT experiment_id, unit_hash, id, false
FROM stored
WHERE exposed
