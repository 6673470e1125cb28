"""series before code

Runs before the code that needs it. Revision 0012, after 0011. `wald rebuild` makes the series of what came
before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column(
        "unit_totals",
        sa.Column(
            "minute",
            sa.Integer(),
            nullable=True,
            comment="of its first exposed assignment, since 1970; null: stored before there were series",
        ),
    )
    op.create_table(
        "metric_series",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("minute", sa.Integer(), nullable=False, comment="the first of its span, since 1970"),
        sa.Column("span", sa.SmallInteger(), nullable=False, comment="1, 60 or 1440 minutes"),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("variant", sa.SmallInteger(), nullable=False),
        sa.Column("crossed", sa.Boolean(), nullable=False),
        sa.Column(
            "body", sa.LargeBinary(), nullable=False, comment="exact sums of each metric; empty: none yet"
        ),
        sa.PrimaryKeyConstraint(
            "experiment_id",
            "minute",
            "span",
            "epoch",
            "variant",
            "crossed",
            name=op.f("pk_metric_series"),
        ),
    )
    op.create_index(op.f("ix_metric_series_span_minute"), "metric_series", ["span", "minute"])


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("metric_series")
    op.drop_column("unit_totals", "minute")
