-- The days of expiry up to a day that have a partition, oldest first.
SELECT to_date(right(partition.relname, 8), 'YYYYMMDD')
FROM pg_inherits
JOIN pg_class AS partition ON partition.oid = inhrelid
WHERE inhparent = 'responses'::regclass AND to_date(right(partition.relname, 8), 'YYYYMMDD') <= %s
ORDER BY 1
