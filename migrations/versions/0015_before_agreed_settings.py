"""agreed settings before code

Runs before the code that needs it. Revision 0015, after 0014.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "agreed_settings",
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="of the environment variable, in lower case, without WALD_",
        ),
        sa.Column("value", sa.Text(), nullable=False, comment="as in the environment variable"),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_agreed_settings")),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("agreed_settings")
