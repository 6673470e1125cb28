"""Metrics that change while an experiment runs: layouts of totals, changes and backfills.

Before the code, which writes the new columns and tables. Stored totals are in the first layout.
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_UPGRADE = """
    ALTER TABLE unit_totals ADD COLUMN layout SMALLINT DEFAULT 1 NOT NULL;
    COMMENT ON COLUMN unit_totals.layout IS 'of the body';
    ALTER TABLE experiments
        ADD COLUMN layout SMALLINT DEFAULT 1 NOT NULL,
        ADD COLUMN earlier_layouts JSON DEFAULT '[]' NOT NULL,
        ADD COLUMN planned JSON;
    COMMENT ON COLUMN experiments.layout IS '+1 with every change of what is measured of units';
    COMMENT ON COLUMN experiments.earlier_layouts
        IS 'those in which totals may be stored until the backfill has finished';
    COMMENT ON COLUMN experiments.planned IS 'metrics of the plan; null: those of the definition';
    CREATE TABLE metric_changes (
        experiment_id INTEGER NOT NULL,
        number INTEGER NOT NULL,
        metrics JSON NOT NULL,
        segments JSON,
        reward JSON NOT NULL,
        reopened BOOLEAN NOT NULL,
        by TEXT,
        reason TEXT NOT NULL,
        at TIMESTAMP WITH TIME ZONE NOT NULL,
        CONSTRAINT pk_metric_changes PRIMARY KEY (experiment_id, number),
        CONSTRAINT fk_metric_changes_experiment_id_experiments FOREIGN KEY (experiment_id)
            REFERENCES experiments (id) ON DELETE CASCADE
    );
    COMMENT ON COLUMN metric_changes.number IS 'from 1, without a gap';
    COMMENT ON COLUMN metric_changes.metrics IS 'all metrics after the change';
    COMMENT ON COLUMN metric_changes.segments
        IS 'segments of the plan after the change; null: none';
    COMMENT ON COLUMN metric_changes.reward IS 'the reward after the change';
    COMMENT ON COLUMN metric_changes.reopened IS 'the change re-opened the plan';
    COMMENT ON COLUMN metric_changes.by IS 'null: not known';
    CREATE TABLE backfills (
        experiment_id INTEGER NOT NULL,
        unit_hash BIGINT NOT NULL,
        assignment_id UUID NOT NULL,
        done BIGINT DEFAULT 0 NOT NULL,
        expected BIGINT,
        started_at TIMESTAMP WITH TIME ZONE NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE,
        error TEXT,
        CONSTRAINT pk_backfills PRIMARY KEY (experiment_id),
        CONSTRAINT fk_backfills_experiment_id_experiments FOREIGN KEY (experiment_id)
            REFERENCES experiments (id) ON DELETE CASCADE
    );
    COMMENT ON COLUMN backfills.unit_hash IS 'everything up to here is measured';
    COMMENT ON COLUMN backfills.done IS 'assignments';
    COMMENT ON COLUMN backfills.expected IS 'assignments; null: not counted yet';
    COMMENT ON COLUMN backfills.finished_at IS 'null: it goes on';
    COMMENT ON COLUMN backfills.error IS 'why the last attempt failed; null: it did not';
    CREATE INDEX ix_backfills_unfinished ON backfills (experiment_id) WHERE finished_at IS NULL;
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(_UPGRADE)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP TABLE backfills")
    op.execute("DROP TABLE metric_changes")
    op.execute("ALTER TABLE experiments DROP COLUMN layout, DROP COLUMN earlier_layouts, DROP COLUMN planned")
    op.execute("ALTER TABLE unit_totals DROP COLUMN layout")
