-- A row for every cell, to be locked; without bytes where there was none.
INSERT INTO metric_totals (experiment_id, epoch, variant, segment, crossed, body)
SELECT experiment_id, epoch, variant, segment, crossed, ''
FROM unnest(
    %(experiment_id)s::integer[], %(epoch)s::integer[], %(variant)s::smallint[], %(segment)s::text[],
    %(crossed)s::boolean[]
) AS changed (experiment_id, epoch, variant, segment, crossed)
ORDER BY experiment_id, epoch, variant, segment, crossed
ON CONFLICT DO NOTHING
