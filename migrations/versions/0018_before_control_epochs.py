"""the control of each epoch, before code

Runs before the code that needs it. Revision 0018, after 0017. Until now an experiment kept its
control, so the present one was the control of every epoch.
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_UPGRADE = """
    ALTER TABLE experiments ADD COLUMN control_epoch INTEGER DEFAULT 1 NOT NULL;
    COMMENT ON COLUMN experiments.control_epoch IS 'the first epoch of the present control';
    ALTER TABLE epochs ADD COLUMN control TEXT;
    COMMENT ON COLUMN epochs.control IS 'its key; null: as in the epoch after it';
    UPDATE epochs SET control = (
        SELECT variant ->> 'key'
        FROM experiments, json_array_elements(experiments.definition -> 'variants') AS variant
        WHERE experiments.id = epochs.experiment_id AND (variant ->> 'control')::boolean
    );
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(_UPGRADE)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("ALTER TABLE epochs DROP COLUMN control")
    op.execute("ALTER TABLE experiments DROP COLUMN control_epoch")
