"""Store feedback by response_id until its response comes, erased units, and the day of expiry.

Before the code.
"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_CREATE = """
    CREATE TABLE response_feedback (
        id_hash BIGINT NOT NULL,
        experiment_id INTEGER NOT NULL,
        event_key TEXT NOT NULL,
        response_id TEXT NOT NULL,
        signal TEXT NOT NULL,
        source SMALLINT NOT NULL,
        value DOUBLE PRECISION,
        at timestamptz NOT NULL,
        received_at timestamptz NOT NULL,
        event_id TEXT,
        state TEXT NOT NULL,
        reason TEXT,
        CONSTRAINT pk_response_feedback PRIMARY KEY (id_hash, experiment_id, event_key),
        CONSTRAINT ck_response_feedback_state_is_known
            CHECK (state IN ('waiting', 'ambiguous', 'refused'))
    );
    CREATE INDEX ix_response_feedback_received_at ON response_feedback (received_at);
    COMMENT ON COLUMN response_feedback.id_hash IS 'of the response_id';
    COMMENT ON COLUMN response_feedback.experiment_id IS '0: the sender named none';
    COMMENT ON COLUMN response_feedback.event_key IS '=id of the client, or #signal/source';
    COMMENT ON COLUMN response_feedback.value IS 'null: the default value of the signal';
    COMMENT ON COLUMN response_feedback.state
        IS 'waiting -> counted, row deleted | ambiguous | refused';
    COMMENT ON COLUMN response_feedback.reason IS 'why it is ambiguous or refused';
    CREATE TABLE response_erasures (
        experiment_id INTEGER NOT NULL,
        unit_hash BIGINT NOT NULL,
        erased_at timestamptz NOT NULL,
        CONSTRAINT pk_response_erasures PRIMARY KEY (experiment_id, unit_hash)
    );
    CREATE TABLE response_expiry (
        id SMALLINT NOT NULL,
        day DATE NOT NULL,
        CONSTRAINT pk_response_expiry PRIMARY KEY (id),
        CONSTRAINT ck_response_expiry_one_row CHECK (id = 1)
    );
    COMMENT ON COLUMN response_expiry.id IS '1: there is one row';
    COMMENT ON COLUMN response_expiry.day IS 'the last day that was believed';
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(_CREATE)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP TABLE response_expiry, response_erasures, response_feedback")
