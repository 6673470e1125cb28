-- Store exposures of assignments whose feedback came first. One row of arrays: the ids, and the new places.
WITH exposed AS (
    UPDATE assignments
    SET exposed = true, unit = staged.unit, context = staged.context
    FROM staged_assignments AS staged
    WHERE assignments.experiment_id = staged.experiment_id AND assignments.unit_hash = staged.unit_hash
        AND assignments.id = staged.id AND staged.exposed AND NOT assignments.exposed
    RETURNING assignments.id, assignments.ctid
)
SELECT array_agg(id), array_agg(ctid)
FROM exposed
