"""policy totals before code

Runs before the code that needs it. Revision 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "policy_totals",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("variant", sa.SmallInteger(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False, comment="of the totals; empty: they have only one"),
        sa.Column(
            "body",
            sa.LargeBinary(),
            nullable=False,
            comment="exact sums, as bandits encodes them; empty: none yet",
        ),
        sa.PrimaryKeyConstraint("experiment_id", "epoch", "variant", "part", name=op.f("pk_policy_totals")),
    )
    op.add_column(
        "allocations",
        sa.Column(
            "contextual",
            sa.LargeBinary(),
            comment="digest of the posterior that was published with the weights",
        ),
    )
    op.add_column(
        "allocations",
        sa.Column("winner", postgresql.JSONB(), comment="what best_arm has decided, for good"),
    )
    op.add_column(
        "allocations", sa.Column("wanted", sa.BigInteger(), comment="the publication it was computed for")
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for column in ("wanted", "winner", "contextual"):
        op.drop_column("allocations", column)
    op.drop_table("policy_totals")
