-- Lock the policy totals of some variants, in key order, as others have left them.
SELECT experiment_id, epoch, variant, body
FROM unnest(%(experiment_id)s::integer[], %(epoch)s::integer[], %(variant)s::smallint[])
    AS changed (experiment_id, epoch, variant)
JOIN policy_totals USING (experiment_id, epoch, variant)
WHERE part = ''
ORDER BY experiment_id, epoch, variant
FOR NO KEY UPDATE OF policy_totals
