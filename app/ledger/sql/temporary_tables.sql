-- Tables in which a session stages rows for one transaction; each commit empties them. Columns are in the order of the
-- COPY: fixed widths first, texts last.
CREATE TEMPORARY TABLE staged_keys (
    number integer, experiment_id integer, unit_hash bigint, id uuid
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE staged_assignments (
    experiment_id integer, unit_hash bigint, id uuid, assigned_at timestamptz, deadline timestamptz, epoch integer,
    policy_version integer, variant smallint, propensity double precision, exposed boolean, unit text, context jsonb
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE staged_signals (
    number integer, assignment_id uuid, experiment_id integer, unit_hash bigint, source smallint, value double precision,
    at timestamptz, received_at timestamptz, signal text, event_key text COLLATE "C"
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE staged_unit_signals (
    number integer, experiment_id integer, unit_hash bigint, source smallint, value double precision,
    at timestamptz, received_at timestamptz, signal text, event_key text COLLATE "C"
) ON COMMIT DELETE ROWS;

-- Stored assignments whose exposure has just arrived; signals between `since` and `deadline` are in time.
CREATE TEMPORARY TABLE exposing (
    id uuid, since timestamptz, deadline timestamptz
) ON COMMIT DELETE ROWS;

-- Units that a batch exposes: signals after `since` may move to another assignment; `until` is the last exposure.
CREATE TEMPORARY TABLE exposed_units (
    experiment_id integer, unit_hash bigint, since timestamptz, until timestamptz
) ON COMMIT DELETE ROWS;

-- Signals by unit whose state a transaction may change; `fresh`: it logged them itself.
CREATE TEMPORARY TABLE unit_scope (
    experiment_id integer, unit_hash bigint, at timestamptz, fresh boolean, signal text
) ON COMMIT DELETE ROWS;

-- Assignments outside the batch whose reward may change; one may be in it several times.
CREATE TEMPORARY TABLE affected (
    experiment_id integer, unit_hash bigint, id uuid
) ON COMMIT DELETE ROWS;

-- Assignments whose signals have to be read from the log.
CREATE TEMPORARY TABLE unread (
    owner integer, experiment_id integer, unit_hash bigint, id uuid, assigned_at timestamptz, deadline timestamptz,
    exposed boolean
) ON COMMIT DELETE ROWS;

-- Rewards to store. `place` is valid until the end of the transaction, because the assignment is locked.
CREATE TEMPORARY TABLE staged_rewards (
    place tid, outcome smallint, reward integer
) ON COMMIT DELETE ROWS;

-- Assignments whose contexts a policy learns from.
CREATE TEMPORARY TABLE learning (
    number integer, place tid
) ON COMMIT DELETE ROWS;

-- Units that a transaction touches.
CREATE TEMPORARY TABLE touched_units (
    number integer, experiment_id integer, epoch integer, unit_hash bigint, assignment_id uuid
) ON COMMIT DELETE ROWS;

-- New values of touched units. `place` is valid until the end of the transaction, because the unit is locked.
CREATE TEMPORARY TABLE changed_units (
    place tid, variant smallint, crossed boolean, minute integer, stratum smallint, weight bigint, layout smallint,
    segment text, body bytea
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE new_units (
    experiment_id integer, epoch integer, unit_hash bigint, assignment_id uuid, variant smallint, crossed boolean,
    minute integer, stratum smallint, weight bigint, layout smallint, segment text, body bytea
) ON COMMIT DELETE ROWS;
