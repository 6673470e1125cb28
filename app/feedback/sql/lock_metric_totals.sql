-- Lock the totals of some cells, in key order, as others have left them.
SELECT experiment_id, epoch, variant, segment, crossed, body
FROM unnest(
    %(experiment_id)s::integer[], %(epoch)s::integer[], %(variant)s::smallint[], %(segment)s::text[],
    %(crossed)s::boolean[]
) AS changed (experiment_id, epoch, variant, segment, crossed)
JOIN metric_totals USING (experiment_id, epoch, variant, segment, crossed)
ORDER BY experiment_id, epoch, variant, segment, crossed
FOR NO KEY UPDATE OF metric_totals
