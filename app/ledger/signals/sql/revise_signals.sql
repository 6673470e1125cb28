-- Without a client's id the newest signal replaces the logged one; a signal inserted just now is not newer than itself.
-- One row of an array: the numbers of the signals that replaced one.
WITH revised AS (
    UPDATE signals AS stored
    SET value = staged.value, at = staged.at, received_at = staged.received_at
    FROM staged_signals AS staged
    WHERE stored.assignment_id = staged.assignment_id AND stored.event_key = staged.event_key
        AND NOT stored.event_key ^@ '=' AND (staged.at, staged.value) > (stored.at, stored.value)
    RETURNING number
)
SELECT array_agg(number)
FROM revised
