-- Ids of at most :examples assignments to :variants since the epoch :since, of units that came newest epoch first.
-- The log has no index by epoch: canaries are looked for among at most :units_max units, which have one.
SELECT a.id
FROM (
    SELECT * FROM (
        SELECT unit_hash, epoch, variant
        FROM unit_totals
        WHERE experiment_id = :experiment_id AND epoch >= :since
        ORDER BY epoch DESC, unit_hash DESC, assignment_id DESC
        LIMIT :units_max
    ) AS units
    WHERE variant = ANY(:variants)
    LIMIT :examples
) AS u
CROSS JOIN LATERAL (
    SELECT id
    FROM assignments
    WHERE experiment_id = :experiment_id AND unit_hash = u.unit_hash
      AND epoch = u.epoch AND variant = u.variant AND exposed
    LIMIT 1
) AS a
