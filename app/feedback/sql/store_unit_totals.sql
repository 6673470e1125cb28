-- Store the sums of locked units anew.
UPDATE unit_totals
SET variant = staged.variant, segment = staged.segment, crossed = staged.crossed,
    minute = staged.minute, body = staged.body
FROM staged_units AS staged
WHERE NOT new AND unit_totals.experiment_id = staged.experiment_id AND unit_totals.epoch = staged.epoch
    AND unit_totals.unit_hash = staged.unit_hash AND unit_totals.assignment_id = staged.assignment_id
