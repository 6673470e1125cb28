"""rollouts before code

Runs before the code that needs it. Revision 0008, after 0007.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column(
        "experiments",
        sa.Column(
            "held",
            postgresql.JSONB(),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="shares of variants that a rollout holds, by their keys",
        ),
    )
    op.add_column(
        "experiments",
        sa.Column("killed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_table(
        "kills",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_by", sa.Text()),
        sa.Column("ended_reason", sa.Text()),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiments.id"],
            name=op.f("fk_kills_experiment_id_experiments"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_kills")),
    )
    op.create_index("ix_kills_experiment_id", "kills", ["experiment_id"])
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("plan", postgresql.JSON(), nullable=False),
        sa.Column(
            "state",
            postgresql.JSONB(),
            nullable=False,
            comment="{kind: running | paused | rolled_back | completed, ...}",
        ),
        sa.Column("epoch", sa.Integer(), nullable=False, comment="the first one of its data"),
        sa.Column("looked", postgresql.JSON(), comment="the last decision, also one to hold, and when"),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["experiments.id"],
            name=op.f("fk_rollouts_experiment_id_experiments"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
        sa.CheckConstraint(
            "state ->> 'kind' IN ('running', 'paused', 'rolled_back', 'completed')",
            name=op.f("ck_rollouts_state_is_known"),
        ),
    )
    op.create_index(
        "uq_rollouts_experiment_id_active",
        "rollouts",
        ["experiment_id"],
        unique=True,
        postgresql_where=sa.text("state ->> 'kind' IN ('running', 'paused')"),
    )
    op.create_table(
        "rollout_decisions",
        sa.Column("rollout_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, comment="from 1, without a gap"),
        sa.Column("decision", postgresql.JSON(), nullable=False),
        sa.Column("receipt", postgresql.JSON(), comment="null: nothing had been measured"),
        sa.Column("by", sa.Text(), comment="null: Wald itself"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout_id"],
            ["rollouts.id"],
            name=op.f("fk_rollout_decisions_rollout_id_rollouts"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("rollout_id", "number", name=op.f("pk_rollout_decisions")),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("rollout_decisions")
    op.drop_table("rollouts")
    op.drop_table("kills")
    op.drop_column("experiments", "killed")
    op.drop_column("experiments", "held")
