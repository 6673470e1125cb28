-- Replace locked series.
UPDATE metric_series
SET body = changed.body
FROM unnest(
    %(experiment_id)s::integer[], %(minute)s::integer[], %(span)s::smallint[], %(epoch)s::integer[],
    %(variant)s::smallint[], %(crossed)s::boolean[], %(body)s::bytea[]
) AS changed (experiment_id, minute, span, epoch, variant, crossed, body)
WHERE metric_series.experiment_id = changed.experiment_id AND metric_series.minute = changed.minute
    AND metric_series.span = changed.span AND metric_series.epoch = changed.epoch
    AND metric_series.variant = changed.variant AND metric_series.crossed = changed.crossed
