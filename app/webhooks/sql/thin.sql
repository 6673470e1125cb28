-- Delete messages from before :before with their deliveries, unless an attempt is still due.
DELETE FROM webhook_messages
WHERE id IN (
    SELECT m.id
    FROM webhook_messages AS m
    WHERE m.created_at < :before
      AND NOT EXISTS (
          SELECT FROM webhook_deliveries AS d WHERE d.message_id = m.id AND d.next_attempt_at IS NOT NULL
      )
    ORDER BY m.created_at
    LIMIT :rows_max
)
