-- Take the waiting signals about these response_ids out of the table.
DELETE FROM response_feedback
WHERE id_hash = ANY(%(id_hashes)s) AND state = 'waiting'
RETURNING response_id, experiment_id, signal, source, value, at, received_at, event_id
