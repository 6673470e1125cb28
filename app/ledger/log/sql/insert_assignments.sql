-- Store and lock staged assignments that are new. Assignments that another transaction stored meanwhile are left out.
-- One row of arrays: the ids of the stored assignments, and their places.
WITH stored AS (
    INSERT INTO assignments (
        experiment_id, unit_hash, id, unit, assigned_at, deadline, epoch, policy_version, variant, propensity,
        context, exposed
    )
    SELECT
        experiment_id, unit_hash, id, unit, assigned_at, deadline, epoch, policy_version, variant, propensity,
        context, exposed
    FROM staged_assignments
    ON CONFLICT (experiment_id, unit_hash, id) DO NOTHING
    RETURNING id, assignments.ctid
)
SELECT array_agg(id), array_agg(ctid)
FROM stored
