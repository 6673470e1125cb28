-- A row for every key, to be locked; without bytes where there was none.
INSERT INTO policy_totals (experiment_id, epoch, variant, part, body)
SELECT experiment_id, epoch, variant, '', ''
FROM unnest(%(experiment_id)s::integer[], %(epoch)s::integer[], %(variant)s::smallint[])
    AS changed (experiment_id, epoch, variant)
ORDER BY experiment_id, epoch, variant
ON CONFLICT DO NOTHING
