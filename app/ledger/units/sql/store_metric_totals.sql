-- Replace the totals of cells.
UPDATE metric_totals
SET body = changed.body
FROM unnest(
    %(experiment_id)s::integer[], %(epoch)s::integer[], %(variant)s::smallint[], %(segment)s::text[],
    %(crossed)s::boolean[], %(body)s::bytea[]
) AS changed (experiment_id, epoch, variant, segment, crossed, body)
WHERE metric_totals.experiment_id = changed.experiment_id AND metric_totals.epoch = changed.epoch
    AND metric_totals.variant = changed.variant AND metric_totals.segment = changed.segment
    AND metric_totals.crossed = changed.crossed
