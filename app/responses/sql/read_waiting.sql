-- Responses that named a unit and have no assignment yet, whose exposures are all in the log: those that arrived before
-- the watermark of every shard of signals.
SELECT
    keys.response_key, keys.experiment_id, keys.unit_hash, keys.expires_on, keys.id_hash, keys.assignment,
    responses.received_at, responses.at, responses.failed, responses.tokens_in, responses.tokens_out,
    responses.latency_ms, responses.cost_usd, responses.unit, responses.response_id, responses.session_id,
    responses.model, responses.finish_reason, NULL
FROM response_keys AS keys
JOIN responses USING (expires_on, response_key)
WHERE keys.seq IS NULL AND keys.response_key > %(after)s
    AND responses.received_at < (
        SELECT min(watermark) FROM stream_positions WHERE shard >= 0 HAVING count(*) = count(watermark)
    )
ORDER BY keys.response_key
LIMIT %(limit)s
