-- Store the totals of locked strata.
UPDATE share_totals
SET body = changed.body
FROM unnest(
    %(experiment_id)s::integer[], %(epoch)s::integer[], %(stratum)s::smallint[], %(variant)s::smallint[],
    %(body)s::bytea[]
) AS changed (experiment_id, epoch, stratum, variant, body)
WHERE share_totals.experiment_id = changed.experiment_id AND share_totals.epoch = changed.epoch
    AND share_totals.stratum = changed.stratum AND share_totals.variant = changed.variant
