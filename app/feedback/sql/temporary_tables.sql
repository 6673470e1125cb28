-- What a session stages for one transaction; empty again after each commit. Column order is that of the COPY in
-- batch.py: fixed widths first, texts last.
CREATE TEMPORARY TABLE staged_assignments (
    experiment_id integer, unit_hash bigint, id uuid, assigned_at timestamptz, epoch integer,
    policy_version integer, variant smallint, propensity double precision, exposed boolean,
    unit text, context jsonb
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE staged_signals (
    experiment_id integer, unit_hash bigint, assignment_id uuid, assigned_at timestamptz, source smallint,
    value double precision, at timestamptz, received_at timestamptz, signal text, event_key text COLLATE "C"
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE staged_unit_signals (
    experiment_id integer, unit_hash bigint, source smallint, value double precision,
    at timestamptz, received_at timestamptz, signal text, event_key text COLLATE "C"
) ON COMMIT DELETE ROWS;

-- Assignments that this transaction exposes: no part of them is in the totals yet.
CREATE TEMPORARY TABLE newly_exposed (
    experiment_id integer, unit_hash bigint, id uuid, epoch integer, variant smallint
) ON COMMIT DELETE ROWS;

-- Assignments whose reward may change, some of them several times.
CREATE TEMPORARY TABLE affected (
    experiment_id integer, unit_hash bigint, id uuid
) ON COMMIT DELETE ROWS;

-- The affected assignments as stored. Locked, so their place stays theirs until the end of the transaction.
CREATE TEMPORARY TABLE locked (
    place tid, experiment_id integer, unit_hash bigint, id uuid, assigned_at timestamptz, deadline timestamptz,
    epoch integer, variant smallint, exposed boolean, outcome smallint, reward integer, counted boolean
) ON COMMIT DELETE ROWS;
