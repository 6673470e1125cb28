-- Lease at most :claims_max due deliveries until :until, first attempts before repeats. At most :endpoint_max
-- deliveries of one endpoint are leased at a time. Other workers skip the rows that are locked here.
WITH due AS (
    SELECT picked.id
    FROM webhook_endpoints AS e
    CROSS JOIN LATERAL (
        SELECT d.id, d.step, d.next_attempt_at
        FROM webhook_deliveries AS d
        WHERE d.endpoint_id = e.id
          AND d.next_attempt_at <= :now
          AND (d.leased_until IS NULL OR d.leased_until <= :now)
        ORDER BY d.next_attempt_at
        LIMIT greatest(0, CAST(:endpoint_max AS bigint) - (
            SELECT count(*)
            FROM webhook_deliveries AS s
            WHERE s.endpoint_id = e.id AND s.next_attempt_at IS NOT NULL AND s.leased_until > :now
        ))
        FOR UPDATE SKIP LOCKED
    ) AS picked
    WHERE e.disabled_at IS NULL
    ORDER BY picked.step, picked.next_attempt_at
    LIMIT :claims_max
)
UPDATE webhook_deliveries AS d
SET leased_until = :until, attempts = d.attempts + 1
FROM due, webhook_messages AS m, webhook_endpoints AS e
WHERE d.id = due.id AND m.id = d.message_id AND e.id = d.endpoint_id
RETURNING d.id AS delivery_id, d.endpoint_id, d.attempts AS attempt, d.step, e.url, e.adapter,
          e.secret, e.previous_secret, e.previous_until, m.id AS message_id, m.type, m.body, m.created_at
