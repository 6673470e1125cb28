"""integrity and history before code

Runs before the code that needs it. Revision 0009, after 0008.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "freezes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column(
            "since",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("causes", postgresql.JSONB(), nullable=False, comment="what is wrong with the data"),
        sa.Column("held", sa.LargeBinary(), nullable=False, comment="what the policy decides by meanwhile"),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True, comment="null while it lasts"),
        sa.Column(
            "lifted_by",
            sa.Text(),
            nullable=True,
            comment="name of the API key; null: all causes had passed",
        ),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(lifted_at IS NULL) = (reason IS NULL)", name=op.f("ck_freezes_lifted_for_a_reason")
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiments.id"],
            name=op.f("fk_freezes_experiment_id_experiments"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_freezes")),
    )
    op.create_index(op.f("ix_freezes_experiment_id_id"), "freezes", ["experiment_id", "id"])
    op.create_index(
        "uq_freezes_lasting",
        "freezes",
        ["experiment_id"],
        unique=True,
        postgresql_where=sa.text("lifted_at IS NULL"),
    )
    op.create_table(
        "readouts",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, comment="the moment that was read"),
        sa.Column(
            "wanted",
            sa.BigInteger(),
            nullable=False,
            comment="the experiment's `publications.wanted` then: another one is kept when it has moved",
        ),
        sa.Column(
            "body",
            sa.LargeBinary(),
            nullable=False,
            comment="the status as JSON without its allocation history, compressed by zlib",
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiments.id"],
            name=op.f("fk_readouts_experiment_id_experiments"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("experiment_id", "at", name=op.f("pk_readouts")),
    )
    op.create_index(op.f("ix_readouts_at"), "readouts", ["at"])


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("readouts")
    op.drop_table("freezes")
