-- Without a client's id the key contains the time; of one time the greatest value stays. One row of an array: the numbers
-- of the signals that replaced one.
WITH revised AS (
    UPDATE unit_signals AS stored
    SET value = staged.value, received_at = staged.received_at
    FROM staged_unit_signals AS staged
    WHERE stored.experiment_id = staged.experiment_id AND stored.unit_hash = staged.unit_hash
        AND stored.event_key = staged.event_key AND stored.event_key ^@ '#' AND staged.value > stored.value
    RETURNING number
)
SELECT array_agg(number)
FROM revised
