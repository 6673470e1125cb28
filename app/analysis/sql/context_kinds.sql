-- Keys of the contexts of an experiment's first assignments, in the order of a keyed hash of the unit, with the JSON
-- types of their values.
SELECT entry.key, array_agg(DISTINCT jsonb_typeof(entry.value)) AS kinds
FROM (
    SELECT context
    FROM assignments
    WHERE experiment_id = :experiment_id AND exposed
    ORDER BY unit_hash, id
    LIMIT :rows_max
) AS sample
CROSS JOIN LATERAL jsonb_each(
    CASE WHEN jsonb_typeof(sample.context) = 'object' THEN sample.context ELSE '{}' END
) AS entry
GROUP BY entry.key
ORDER BY entry.key
LIMIT :keys_max
