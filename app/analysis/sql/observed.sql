-- The totals of the experiment :experiment_id that an analysis reads. One statement, so all parts are of one
-- snapshot at any isolation level. `part` says which columns are filled:
--   epochs     numbers: the columns of VariantTotals, in their order
--   units      segment, crossed, body: the totals of a cell of units that holds any
--   draws      numbers: assignments, probability sum
--   shares     numbers: first and last version of the epoch, then the weights of one of its versions
--   strata     numbers: the stratum; body: the totals of a variant in it
--   watermark  at: everything acknowledged before is in the totals; null while a shard was never read
SELECT 'epochs' AS part, epoch, variant, '' AS segment, false AS crossed,
       ARRAY[assignments, rewards, censored, reward_sum, reward_square_sum]::numeric[] AS numbers,
       NULL::bytea AS body, NULL::timestamptz AS at
FROM totals WHERE experiment_id = :experiment_id
UNION ALL
SELECT 'units', epoch, variant, segment, crossed, NULL, body, NULL
FROM metric_totals WHERE experiment_id = :experiment_id AND body <> ''
UNION ALL
SELECT 'draws', epoch, variant, '', false, ARRAY[assignments, probability_sum]::numeric[], NULL, NULL
FROM draws WHERE experiment_id = :experiment_id
UNION ALL
SELECT 'shares', epoch, 0, '', false, ARRAY[min(version), max(version)]::numeric[] || min(weights)::numeric[], NULL, NULL
FROM allocations WHERE experiment_id = :experiment_id GROUP BY epoch
UNION ALL
SELECT 'strata', epoch, variant, '', false, ARRAY[stratum]::numeric[], body, NULL
FROM share_totals WHERE experiment_id = :experiment_id AND body <> ''
UNION ALL
SELECT 'watermark', 0, 0, '', false, NULL, NULL, CASE WHEN count(*) = count(watermark) THEN min(watermark) END
FROM stream_positions
ORDER BY part, epoch, variant, segment, crossed, numbers
