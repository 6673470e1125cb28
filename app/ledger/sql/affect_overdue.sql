-- Assignments that became pending when the sweep may have passed their deadline already.
WITH taken AS (
    DELETE FROM overdue_assignments
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM overdue_assignments LIMIT %(rows_max)s))
    RETURNING experiment_id, unit_hash, id
)
INSERT INTO affected
SELECT *
FROM taken
