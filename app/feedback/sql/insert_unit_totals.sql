-- Store staged units that are new, which locks them as well. Those that somebody else stored meanwhile are left out.
INSERT INTO unit_totals (experiment_id, epoch, unit_hash, assignment_id, variant, segment, crossed, minute, body)
SELECT experiment_id, epoch, unit_hash, assignment_id, variant, segment, crossed, minute, body
FROM staged_units
WHERE new
ORDER BY experiment_id, epoch, unit_hash, assignment_id
ON CONFLICT (experiment_id, epoch, unit_hash, assignment_id) DO NOTHING
RETURNING experiment_id, epoch, unit_hash, assignment_id
