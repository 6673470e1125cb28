-- Lock the totals of some cells in key order, and read them as others have committed them; a new row has no bytes.
INSERT INTO metric_totals (experiment_id, epoch, variant, segment, crossed, body)
SELECT experiment_id, epoch, variant, segment, crossed, ''
FROM unnest(
    %(experiment_id)s::integer[], %(epoch)s::integer[], %(variant)s::smallint[], %(segment)s::text[],
    %(crossed)s::boolean[]
) AS changed (experiment_id, epoch, variant, segment, crossed)
ORDER BY experiment_id, epoch, variant, segment, crossed
ON CONFLICT (experiment_id, epoch, variant, segment, crossed) DO UPDATE SET body = metric_totals.body
RETURNING experiment_id, epoch, variant, segment, crossed, body
