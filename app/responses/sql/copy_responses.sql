COPY responses (
    expires_on, response_key, experiment_id, unit_hash, received_at, at, assignment, epoch, variant, failed, tokens_in,
    tokens_out, latency_ms, cost_usd, unit, response_id, session_id, model, finish_reason, body
) FROM STDIN (FORMAT BINARY)
