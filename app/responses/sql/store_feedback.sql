-- Keep signals by response_id that do not count yet. Without a client's id the newest replaces an earlier one.
INSERT INTO response_feedback AS stored (
    id_hash, experiment_id, event_key, response_id, signal, source, value, at, received_at, event_id, state, reason
)
SELECT *
FROM unnest(
    %(id_hashes)s::bigint[], %(experiment_ids)s::integer[], %(event_keys)s::text[], %(response_ids)s::text[],
    %(signals)s::text[], %(sources)s::smallint[], %(values)s::double precision[], %(times)s::timestamptz[],
    %(received)s::timestamptz[], %(event_ids)s::text[], %(states)s::text[], %(reasons)s::text[]
)
ON CONFLICT (id_hash, experiment_id, event_key) DO UPDATE
    SET value = excluded.value, at = excluded.at, received_at = excluded.received_at, state = excluded.state,
        reason = excluded.reason
    WHERE stored.event_id IS NULL AND excluded.at >= stored.at
