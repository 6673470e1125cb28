-- Exposed assignments still pending at their deadline, oldest first. Rows that a ledger batch holds are left to
-- the next round.
INSERT INTO affected
SELECT experiment_id, unit_hash, id
FROM (
    SELECT experiment_id, unit_hash, assignments.id
    FROM assignments
    JOIN experiments ON experiments.id = experiment_id
    WHERE outcome = 0 AND exposed AND deadline <= %s
    ORDER BY deadline
    LIMIT %s
    FOR NO KEY UPDATE OF assignments SKIP LOCKED
) AS silent
