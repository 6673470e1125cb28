"""forgetting before code

Runs before the code that needs it. Revision 0006, after 0005.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column(
        "publications",
        sa.Column(
            "due_at",
            sa.DateTime(timezone=True),
            comment="when the passing of time changes the allocation",
        ),
    )
    op.create_index(
        "ix_publications_due_at",
        "publications",
        ["due_at"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index("ix_publications_due_at", "publications")
    op.drop_column("publications", "due_at")
