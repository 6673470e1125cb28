-- Lease at most :claims_max due rows of {table} until :until, and count an attempt of each. `lanes` has the open lanes
-- and how many of their rows may be leased at a time. Other workers skip the rows that are locked here.
WITH lanes (lane, leases_max) AS ({lanes}),
due AS (
    SELECT picked.id
    FROM lanes
    CROSS JOIN LATERAL (
        SELECT j.id, {order_columns}
        FROM {table} AS j
        WHERE j.{lane} = lanes.lane
          AND j.next_attempt_at <= :now
          AND (j.leased_until IS NULL OR j.leased_until <= :now)
        ORDER BY {order_in_lane}
        LIMIT greatest(0, lanes.leases_max - (
            SELECT count(*)
            FROM {table} AS s
            WHERE s.{lane} = lanes.lane AND s.next_attempt_at IS NOT NULL AND s.leased_until > :now
        ))
        FOR UPDATE SKIP LOCKED
    ) AS picked
    ORDER BY {order}
    LIMIT :claims_max
)
UPDATE {table} AS j
SET leased_until = :until, attempts = j.attempts + 1
FROM due
WHERE j.id = due.id
RETURNING j.id, j.attempts AS attempt
