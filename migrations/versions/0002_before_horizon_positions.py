"""horizon positions before code

Runs before the code that needs it. Revision 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "horizons",
        sa.Column(
            "id", sa.SmallInteger(), autoincrement=False, nullable=False, comment="1: there is one row"
        ),
        sa.Column(
            "swept_until",
            sa.DateTime(timezone=True),
            server_default=sa.text("'-infinity'"),
            nullable=False,
            comment="silence up to these deadlines is resolved, but for what is overdue",
        ),
        sa.CheckConstraint("id = 1", name=op.f("ck_horizons_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_horizons")),
    )
    op.execute("INSERT INTO horizons (id) VALUES (1)")
    op.create_table(
        "overdue_assignments",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("unit_hash", sa.BigInteger(), nullable=False),
        sa.Column(
            "id",
            sa.Uuid(),
            nullable=False,
            comment="became pending when the sweep may have passed its deadline",
        ),
    )
    op.create_index("ix_assignments_deadline", "assignments", ["deadline"])
    op.drop_index("ix_assignments_pending", table_name="assignments")
    op.execute("ALTER TABLE assignments SET (fillfactor = 50)")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("ALTER TABLE assignments RESET (fillfactor)")
    op.create_index(
        "ix_assignments_pending",
        "assignments",
        ["deadline"],
        postgresql_where=sa.text("outcome = 0 AND exposed"),
    )
    op.drop_index("ix_assignments_deadline", table_name="assignments")
    op.drop_table("overdue_assignments")
    op.drop_table("horizons")
