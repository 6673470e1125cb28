-- Delete units of an experiment for which the log has no exposed assignment in their epoch.
DELETE FROM unit_totals AS stored
WHERE experiment_id = %(experiment_id)s AND NOT EXISTS (
    SELECT FROM assignments
    WHERE experiment_id = stored.experiment_id AND unit_hash = stored.unit_hash AND epoch = stored.epoch AND exposed
        AND stored.assignment_id IN (id, '00000000-0000-0000-0000-000000000000')
)
