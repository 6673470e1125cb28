"""ended sessions before code

Runs before the code that needs it. Revision 0016, after 0015. Sessions of the pages that were signed out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "ended_sessions",
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="SHA-256 of the session's token"),
        sa.Column(
            "ends_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="then it would have ended by itself",
        ),
        sa.CheckConstraint("octet_length(digest) = 32", name=op.f("ck_ended_sessions_digest_is_sha256")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_ended_sessions")),
    )
    op.create_index(op.f("ix_ended_sessions_ends_at"), "ended_sessions", ["ends_at"])


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("ended_sessions")
