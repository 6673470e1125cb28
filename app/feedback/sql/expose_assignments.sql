-- Staged exposures of assignments whose feedback came first.
WITH awaited AS (
    SELECT assignments.experiment_id, assignments.unit_hash, assignments.id, staged.unit, staged.context
    FROM staged_assignments AS staged
    JOIN assignments USING (experiment_id, unit_hash, id)
    WHERE staged.exposed AND NOT assignments.exposed
    ORDER BY experiment_id, unit_hash, id
    FOR NO KEY UPDATE OF assignments
),
exposed AS (
    UPDATE assignments
    SET exposed = true, unit = awaited.unit, context = awaited.context
    FROM awaited
    WHERE assignments.experiment_id = awaited.experiment_id AND assignments.unit_hash = awaited.unit_hash
        AND assignments.id = awaited.id
    RETURNING
        assignments.experiment_id, assignments.unit_hash, assignments.id, assignments.epoch, assignments.variant
),
counted AS (
    INSERT INTO newly_exposed
    SELECT experiment_id, unit_hash, id, epoch, variant
    FROM exposed
)
INSERT INTO affected
SELECT experiment_id, unit_hash, id
FROM exposed
