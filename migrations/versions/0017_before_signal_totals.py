"""signal totals before code

Runs before the code that needs it. Revision 0017, after 0016. `wald rebuild` counts what was logged before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_BEFORE = "=id of the client; without one #signal/source, after the deadline +signal/source"
_AFTER = "=id of the client; without one #signal/source, + for # after the deadline, - if too early"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "signal_totals",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("signal", sa.Text(), nullable=False, comment="empty: all that have no row of their own"),
        sa.Column("counted", sa.BigInteger(), nullable=False, comment="in time, of an exposed assignment"),
        sa.Column(
            "waiting", sa.BigInteger(), nullable=False, comment="in time, the exposure has not arrived"
        ),
        sa.Column(
            "unknown_unit",
            sa.BigInteger(),
            nullable=False,
            comment="by unit, without an assignment at the time",
        ),
        sa.Column("late", sa.BigInteger(), nullable=False, comment="after the deadline"),
        sa.Column("early", sa.BigInteger(), nullable=False, comment="too long before the assignment"),
        sa.Column(
            "out_of_range",
            sa.BigInteger(),
            nullable=False,
            comment="of all of them; as the definition declares it",
        ),
        sa.Column("lowest", sa.Double(), nullable=True, comment="value ever logged"),
        sa.Column("highest", sa.Double(), nullable=True, comment="value ever logged"),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=True, comment="when the last one came"),
        sa.PrimaryKeyConstraint("experiment_id", "signal", name=op.f("pk_signal_totals")),
    )
    op.alter_column("signals", "event_key", comment=_AFTER, existing_comment=_BEFORE)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.alter_column("signals", "event_key", comment=_BEFORE, existing_comment=_AFTER)
    op.drop_table("signal_totals")
