-- Lock the touched units that are stored, in key order, as others have left them: from here on nobody else changes what
-- they come to.
SELECT number, variant, segment, crossed, minute, body
FROM touched_units
JOIN unit_totals USING (experiment_id, epoch, unit_hash, assignment_id)
ORDER BY experiment_id, epoch, unit_hash, assignment_id
FOR NO KEY UPDATE OF unit_totals
