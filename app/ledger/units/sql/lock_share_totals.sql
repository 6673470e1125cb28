-- Lock the totals of some strata in key order, as others have left them; a row without bytes where there was none.
INSERT INTO share_totals (experiment_id, epoch, stratum, variant, body)
SELECT experiment_id, epoch, stratum, variant, ''
FROM unnest(
    %(experiment_id)s::integer[], %(epoch)s::integer[], %(stratum)s::smallint[], %(variant)s::smallint[]
) AS changed (experiment_id, epoch, stratum, variant)
ORDER BY experiment_id, epoch, stratum, variant
ON CONFLICT (experiment_id, epoch, stratum, variant) DO UPDATE SET body = share_totals.body
RETURNING experiment_id, epoch, stratum, variant, body
