-- A row for every touched unit, to be locked; without bytes where there was none.
INSERT INTO unit_totals (experiment_id, epoch, unit_hash, assignment_id, variant, segment, crossed, body)
SELECT experiment_id, epoch, unit_hash, assignment_id, 0, '', false, ''
FROM touched_units
ORDER BY experiment_id, epoch, unit_hash, assignment_id
ON CONFLICT DO NOTHING
