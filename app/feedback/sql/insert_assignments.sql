-- Store staged assignments that are new. One that is new and exposed needs no resolving: whoever logs a signal
-- for it stores the assignment first, so there is none yet but those of this very batch.
WITH horizon AS MATERIALIZED (
    SELECT
        id AS experiment_id,
        (definition -> 'reward' ->> 'horizon_s')::double precision * interval '1 second' AS horizon
    FROM experiments
    WHERE id IN (SELECT experiment_id FROM staged_assignments)
),
stored AS (
    INSERT INTO assignments (
        experiment_id, unit_hash, id, unit, assigned_at, deadline, epoch, policy_version, variant, propensity,
        context, exposed
    )
    SELECT
        experiment_id, unit_hash, id, unit, assigned_at, assigned_at + horizon, epoch, policy_version, variant,
        propensity, context, exposed
    FROM staged_assignments
    JOIN horizon USING (experiment_id)
    ORDER BY experiment_id, unit_hash, id
    ON CONFLICT (experiment_id, unit_hash, id) DO NOTHING
    RETURNING experiment_id, unit_hash, id, epoch, variant, exposed
)
INSERT INTO newly_exposed
SELECT experiment_id, unit_hash, id, epoch, variant
FROM stored
WHERE exposed
