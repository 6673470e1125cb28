-- Store the sums of units anew.
UPDATE unit_totals
SET variant = changed.variant, segment = changed.segment, crossed = changed.crossed, body = changed.body
FROM unnest(
    %(experiment_id)s::integer[], %(epoch)s::integer[], %(unit_hash)s::bigint[], %(assignment_id)s::uuid[],
    %(variant)s::smallint[], %(segment)s::text[], %(crossed)s::boolean[], %(body)s::bytea[]
) AS changed (experiment_id, epoch, unit_hash, assignment_id, variant, segment, crossed, body)
WHERE unit_totals.experiment_id = changed.experiment_id AND unit_totals.epoch = changed.epoch
    AND unit_totals.unit_hash = changed.unit_hash AND unit_totals.assignment_id = changed.assignment_id
