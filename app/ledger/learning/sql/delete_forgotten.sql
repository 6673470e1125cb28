-- Delete at most rows_max policy totals of epochs that come before the given first part. Rows that another transaction
-- has locked are left for the next time.
DELETE FROM policy_totals
WHERE (experiment_id, epoch, variant, part) IN (
    SELECT experiment_id, epoch, variant, part
    FROM unnest(%(experiment_id)s::integer[], %(epoch)s::integer[], %(first_part)s::text[])
        AS kept (experiment_id, epoch, first_part)
    JOIN policy_totals USING (experiment_id, epoch)
    WHERE part < first_part
    ORDER BY experiment_id, epoch, variant, part
    LIMIT %(rows_max)s
    FOR UPDATE OF policy_totals SKIP LOCKED
)
