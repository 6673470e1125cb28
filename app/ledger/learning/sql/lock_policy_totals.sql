-- Lock the policy totals of some variants in key order, and read them as others have committed them.
SELECT experiment_id, epoch, variant, part, body
FROM unnest(%(experiment_id)s::integer[], %(epoch)s::integer[], %(variant)s::smallint[], %(part)s::text[])
    AS changed (experiment_id, epoch, variant, part)
JOIN policy_totals USING (experiment_id, epoch, variant, part)
ORDER BY experiment_id, epoch, variant, part
FOR NO KEY UPDATE OF policy_totals
