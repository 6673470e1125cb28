-- Log staged signals. With a client's id (=) the first stays. Without one the newest replaces what is stored, those
-- in time (#) apart from those after the deadline (+): what comes too late must not displace what counts.
WITH horizon AS MATERIALIZED (
    SELECT
        id AS experiment_id,
        (definition -> 'reward' ->> 'horizon_s')::double precision * interval '1 second' AS horizon
    FROM experiments
    WHERE id IN (SELECT experiment_id FROM staged_signals)
),
keyed AS (
    SELECT
        staged_signals.*,
        CASE
            WHEN event_key ^@ '#' AND at > assigned_at + horizon THEN '+' || substr(event_key, 2)
            ELSE event_key
        END AS stored_key
    FROM staged_signals
    JOIN horizon USING (experiment_id)
),
changed AS (
    INSERT INTO signals AS stored (
        assignment_id, event_key, experiment_id, unit_hash, signal, source, value, at, received_at
    )
    SELECT DISTINCT ON (assignment_id, stored_key)
        assignment_id, stored_key, experiment_id, unit_hash, signal, source, value, at, received_at
    FROM keyed
    ORDER BY assignment_id, stored_key, at DESC, value DESC
    ON CONFLICT (assignment_id, event_key) DO UPDATE
        SET value = excluded.value, at = excluded.at, received_at = excluded.received_at
        WHERE NOT stored.event_key ^@ '=' AND (excluded.at, excluded.value) > (stored.at, stored.value)
    RETURNING experiment_id, unit_hash, assignment_id
)
INSERT INTO affected
SELECT experiment_id, unit_hash, assignment_id
FROM changed
