"""metric totals before code

Runs before the code that needs it. Revision 0007, after 0006.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column(
        "experiments",
        sa.Column(
            "reads_silence",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="a metric is told something by a horizon that passes without a signal",
        ),
    )
    op.create_index(
        "ix_experiments_reads_silence", "experiments", ["id"], postgresql_where=sa.text("reads_silence")
    )
    op.create_table(
        "unit_totals",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("unit_hash", sa.BigInteger(), nullable=False),
        sa.Column(
            "assignment_id",
            sa.Uuid(),
            nullable=False,
            comment="without stickiness each assignment is a unit of its own; else zeros",
        ),
        sa.Column(
            "variant", sa.SmallInteger(), nullable=False, comment="that of its first exposed assignment"
        ),
        sa.Column("segment", sa.Text(), nullable=False, comment="as it first came; empty: none are declared"),
        sa.Column(
            "crossed", sa.Boolean(), nullable=False, comment="it was assigned to other variants as well"
        ),
        sa.Column(
            "body",
            sa.LargeBinary(),
            nullable=False,
            comment="covariates and sums of its metrics",
        ),
        sa.PrimaryKeyConstraint(
            "experiment_id", "epoch", "unit_hash", "assignment_id", name=op.f("pk_unit_totals")
        ),
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "metric_totals",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("variant", sa.SmallInteger(), nullable=False),
        sa.Column("segment", sa.Text(), nullable=False),
        sa.Column("crossed", sa.Boolean(), nullable=False),
        sa.Column(
            "body",
            sa.LargeBinary(),
            nullable=False,
            comment="exact sums of each metric; empty: none yet",
        ),
        sa.PrimaryKeyConstraint(
            "experiment_id", "epoch", "variant", "segment", "crossed", name=op.f("pk_metric_totals")
        ),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("metric_totals")
    op.drop_table("unit_totals")
    op.drop_index("ix_experiments_reads_silence", "experiments")
    op.drop_column("experiments", "reads_silence")
