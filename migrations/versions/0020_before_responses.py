"""Store responses: their keys, and their texts in partitions by the day on which they expire.

Before the code, which creates the partitions.
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_CREATE = """
    CREATE SEQUENCE response_seq;
    CREATE TABLE response_keys (
        response_key UUID NOT NULL,
        experiment_id INTEGER NOT NULL,
        unit_hash BIGINT NOT NULL,
        expires_on DATE NOT NULL,
        id_hash BIGINT,
        seq BIGINT,
        assignment BYTEA,
        CONSTRAINT pk_response_keys PRIMARY KEY (response_key)
    );
    CREATE UNIQUE INDEX uq_response_keys_seq ON response_keys (seq);
    CREATE INDEX ix_response_keys_experiment_id_seq ON response_keys (experiment_id, seq);
    CREATE INDEX ix_response_keys_id_hash ON response_keys (id_hash) WHERE id_hash IS NOT NULL;
    CREATE INDEX ix_response_keys_waiting ON response_keys (response_key) WHERE seq IS NULL;
    COMMENT ON COLUMN response_keys.response_key IS 'hash of the experiment and the response_id';
    COMMENT ON COLUMN response_keys.expires_on IS 'partition of its row in responses';
    COMMENT ON COLUMN response_keys.id_hash IS 'of the response_id; null without one';
    COMMENT ON COLUMN response_keys.seq IS 'order of storing; null: its unit has no assignment yet';
    COMMENT ON COLUMN response_keys.assignment IS 'body of the assignment id; null as seq';
    CREATE TABLE responses (
        expires_on DATE NOT NULL,
        response_key UUID NOT NULL,
        experiment_id INTEGER NOT NULL,
        unit_hash BIGINT NOT NULL,
        received_at timestamptz NOT NULL,
        at timestamptz NOT NULL,
        assignment UUID,
        epoch INTEGER,
        variant SMALLINT,
        failed BOOLEAN NOT NULL,
        tokens_in INTEGER,
        tokens_out INTEGER,
        latency_ms DOUBLE PRECISION,
        cost_usd DOUBLE PRECISION,
        unit TEXT,
        response_id TEXT,
        session_id TEXT,
        model TEXT,
        finish_reason TEXT,
        body BYTEA,
        CONSTRAINT pk_responses PRIMARY KEY (expires_on, response_key)
    ) PARTITION BY RANGE (expires_on);
    CREATE INDEX ix_responses_unit_hash ON responses (unit_hash);
    -- The bytes are compressed already.
    ALTER TABLE responses ALTER COLUMN body SET STORAGE EXTERNAL;
    COMMENT ON COLUMN responses.at IS 'when it was shown';
    COMMENT ON COLUMN responses.assignment
        IS 'null while its unit has no assignment; epoch and variant as well';
    COMMENT ON COLUMN responses.variant IS 'position in the definition''s variants';
    COMMENT ON COLUMN responses.failed IS 'the model gave an error';
    COMMENT ON COLUMN responses.unit IS 'null if the sender named an assignment, or once erased';
    COMMENT ON COLUMN responses.body IS 'texts, compressed (texts.py); null: erased on request';
    CREATE TABLE response_holds (
        response_key UUID NOT NULL,
        holder TEXT NOT NULL,
        held_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_response_holds PRIMARY KEY (response_key, holder)
    );
    COMMENT ON COLUMN response_holds.holder IS 'room that needs it';
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(_CREATE)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP TABLE response_holds, responses, response_keys")
    op.execute("DROP SEQUENCE response_seq")
