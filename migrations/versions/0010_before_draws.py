"""draws before code

Runs before the code that needs it. Revision 0010, after 0009.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "draws",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("variant", sa.SmallInteger(), nullable=False),
        sa.Column(
            "assignments",
            sa.BigInteger(),
            nullable=False,
            comment="exposed ones, of policy versions that are known",
        ),
        sa.Column(
            "probability_sum",
            sa.Numeric(38, 0),
            nullable=False,
            comment="of the variant over the draws of all variants, in parts of 2**32",
        ),
        sa.PrimaryKeyConstraint("experiment_id", "epoch", "variant", name=op.f("pk_draws")),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("draws")
