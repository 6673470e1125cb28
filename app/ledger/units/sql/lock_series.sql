-- Lock the series of some minutes in key order, and read them as others have committed them; a new row has no bytes. One
-- statement, because thinning may delete rows between two.
INSERT INTO metric_series (experiment_id, minute, span, epoch, variant, crossed, body)
SELECT experiment_id, minute, span, epoch, variant, crossed, ''
FROM unnest(
    %(experiment_id)s::integer[], %(minute)s::integer[], %(span)s::smallint[], %(epoch)s::integer[],
    %(variant)s::smallint[], %(crossed)s::boolean[]
) AS changed (experiment_id, minute, span, epoch, variant, crossed)
ORDER BY experiment_id, minute, span, epoch, variant, crossed
ON CONFLICT (experiment_id, minute, span, epoch, variant, crossed) DO UPDATE SET body = metric_series.body
RETURNING experiment_id, minute, span, epoch, variant, crossed, body
