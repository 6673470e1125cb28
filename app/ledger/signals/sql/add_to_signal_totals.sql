-- Add differences to the totals of signals, in key order. The lowest and highest values and the time of the last signal
-- are over all signals ever logged.
INSERT INTO signal_totals AS stored (
    experiment_id, signal, counted, waiting, unknown_unit, late, early, out_of_range, lowest, highest, last_at
)
SELECT
    experiment_id, signal, counted, waiting, unknown_unit, late, early, out_of_range, lowest, highest,
    to_timestamp(last_us / 1e6)
FROM unnest(
    %(experiment_id)s::integer[], %(signal)s::text[], %(counted)s::bigint[], %(waiting)s::bigint[],
    %(unknown_unit)s::bigint[], %(late)s::bigint[], %(early)s::bigint[], %(out_of_range)s::bigint[],
    %(lowest)s::double precision[], %(highest)s::double precision[], %(last_us)s::bigint[]
) AS moved (
    experiment_id, signal, counted, waiting, unknown_unit, late, early, out_of_range, lowest, highest, last_us
)
ORDER BY experiment_id, signal COLLATE "C"
ON CONFLICT (experiment_id, signal) DO UPDATE SET
    counted = stored.counted + excluded.counted,
    waiting = stored.waiting + excluded.waiting,
    unknown_unit = stored.unknown_unit + excluded.unknown_unit,
    late = stored.late + excluded.late,
    early = stored.early + excluded.early,
    out_of_range = stored.out_of_range + excluded.out_of_range,
    lowest = least(stored.lowest, excluded.lowest),
    highest = greatest(stored.highest, excluded.highest),
    last_at = greatest(stored.last_at, excluded.last_at)
