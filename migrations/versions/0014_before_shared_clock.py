"""shared clock before code

Runs before the code that needs it. Revision 0014, after 0013.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "shared_clock",
        sa.Column("id", sa.SmallInteger(), nullable=False, autoincrement=False, comment="always 1"),
        sa.Column(
            "ahead_us",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("0"),
            comment="of the clock of PostgreSQL",
        ),
        sa.Column(
            "reached_us",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("0"),
            comment="shared time of the last beat",
        ),
        sa.Column("beat", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column(
            "keeper", sa.Text(), nullable=False, server_default=sa.text("''"), comment="process that beats"
        ),
        sa.Column(
            "boot",
            sa.Text(),
            nullable=False,
            server_default=sa.text("''"),
            comment="which start of its machine",
        ),
        sa.Column(
            "counter_us",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("0"),
            comment="since that start, at the last beat",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shared_clock")),
    )
    op.add_column(
        "stream_positions",
        sa.Column(
            "session", sa.Text(), nullable=True, comment="of the owner: it owns nothing once that has ended"
        ),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("stream_positions", "session")
    op.drop_table("shared_clock")
