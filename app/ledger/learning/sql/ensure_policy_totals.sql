-- Insert a row for every key, to be locked; a new row has no bytes.
INSERT INTO policy_totals (experiment_id, epoch, variant, part, body)
SELECT experiment_id, epoch, variant, part, ''
FROM unnest(%(experiment_id)s::integer[], %(epoch)s::integer[], %(variant)s::smallint[], %(part)s::text[])
    AS changed (experiment_id, epoch, variant, part)
ORDER BY experiment_id, epoch, variant, part
ON CONFLICT DO NOTHING
