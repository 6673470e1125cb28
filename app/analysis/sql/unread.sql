-- Assignments whose signals have to be read from the log, as the ledger's session has them.
CREATE TEMPORARY TABLE IF NOT EXISTS unread (
    owner integer, experiment_id integer, unit_hash bigint, id uuid, assigned_at timestamptz, deadline timestamptz,
    exposed boolean
) ON COMMIT DELETE ROWS
