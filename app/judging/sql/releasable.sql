-- Those of the responses :keys that no judgement waits for.
SELECT k
FROM unnest(CAST(:keys AS uuid[])) AS k
WHERE NOT EXISTS (
    SELECT FROM judgements AS j WHERE j.response_key = k AND j.next_attempt_at IS NOT NULL
)
