"""published experiments before code

Runs before the code that needs it. Revision 0013, after 0012. The worker fills the table.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "published_experiments",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, comment="policy_version + revision"),
        sa.Column(
            "body",
            sa.LargeBinary(),
            nullable=False,
            comment="MessagePack PublishedExperiment, as in Valkey",
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiments.id"],
            name=op.f("fk_published_experiments_experiment_id_experiments"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_published_experiments")),
    )
    op.create_index("ix_experiments_killed", "experiments", ["id"], postgresql_where=sa.text("killed"))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index("ix_experiments_killed", table_name="experiments", postgresql_where=sa.text("killed"))
    op.drop_table("published_experiments")
