-- Store and lock new units in key order. Units that another transaction stored meanwhile are left out. One row of arrays:
-- the keys of the stored units.
WITH stored AS (
    INSERT INTO unit_totals (
        experiment_id, epoch, unit_hash, assignment_id, variant, segment, crossed, minute, stratum, weight, layout, body
    )
    SELECT
        experiment_id, epoch, unit_hash, assignment_id, variant, segment, crossed, minute, stratum, weight, layout, body
    FROM new_units
    ON CONFLICT (experiment_id, epoch, unit_hash, assignment_id) DO NOTHING
    RETURNING experiment_id, epoch, unit_hash, assignment_id
)
SELECT array_agg(experiment_id), array_agg(epoch), array_agg(unit_hash), array_agg(assignment_id)
FROM stored
