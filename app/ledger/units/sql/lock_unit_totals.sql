-- Lock the touched units that are stored, in key order, and read them as others have committed them. After this, no other
-- transaction changes their sums. One row of arrays; segments and bodies are concatenated, after the lengths of each.
SELECT
    array_agg(number), array_agg(place), array_agg(epoch), array_agg(variant), array_agg(crossed), array_agg(minute),
    array_agg(stratum), array_agg(weight), array_agg(layout), array_agg(octet_length(segment)),
    array_agg(octet_length(body)), string_agg(segment, ''), string_agg(body, '')
FROM (
    SELECT
        number, unit_totals.ctid AS place, epoch, variant, crossed, coalesce(minute, -1) AS minute,
        coalesce(stratum, -1::smallint) AS stratum, coalesce(weight, 0) AS weight, layout, segment, body
    FROM touched_units
    JOIN unit_totals USING (experiment_id, epoch, unit_hash, assignment_id)
    ORDER BY experiment_id, epoch, unit_hash, assignment_id
    FOR NO KEY UPDATE OF unit_totals
) AS stored
