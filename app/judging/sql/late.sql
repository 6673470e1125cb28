-- Lock at most :rows_max judgements that have been wanted since before :before and that are not leased at :now.
SELECT id, attempts, step, version_hash, rule_id, variant, response_key, repetition
FROM judgements
WHERE next_attempt_at IS NOT NULL
  AND created_at < :before
  AND (leased_until IS NULL OR leased_until <= :now)
ORDER BY id
LIMIT :rows_max
FOR UPDATE SKIP LOCKED
