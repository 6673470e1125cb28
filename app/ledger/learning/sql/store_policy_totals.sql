-- Replace policy totals.
UPDATE policy_totals
SET body = changed.body
FROM unnest(
    %(experiment_id)s::integer[], %(epoch)s::integer[], %(variant)s::smallint[], %(part)s::text[], %(body)s::bytea[]
) AS changed (experiment_id, epoch, variant, part, body)
WHERE policy_totals.experiment_id = changed.experiment_id AND policy_totals.epoch = changed.epoch
    AND policy_totals.variant = changed.variant AND policy_totals.part = changed.part
