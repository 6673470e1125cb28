-- Replace the columns of locked units.
UPDATE unit_totals
SET variant = changed.variant, segment = changed.segment, crossed = changed.crossed, minute = changed.minute,
    stratum = changed.stratum, weight = changed.weight, layout = changed.layout, body = changed.body
FROM changed_units AS changed
WHERE unit_totals.ctid = place
