-- Store the sums of locked units anew.
UPDATE unit_totals
SET variant = staged.variant, segment = staged.segment, crossed = staged.crossed,
    minute = staged.minute, body = staged.body
FROM staged_units AS staged
WHERE NOT new AND unit_totals.ctid = place
