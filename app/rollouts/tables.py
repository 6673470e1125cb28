"""Tables of rollouts: where each is, and every decision with its receipt, which are never changed."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

from app.core.postgres import METADATA
from app.experiments.tables import experiments

rollouts = Table(
    "rollouts",
    METADATA,
    Column("id", Integer, Identity(), primary_key=True),
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    # JSON, not JSONB: numbers come back exactly as they were.
    Column("plan", JSON, nullable=False),
    Column(
        "state",
        JSONB,
        nullable=False,
        comment="{kind: draft | running | paused | rolled_back | completed, ...}",
    ),
    Column("epoch", Integer, nullable=False, comment="the first one of its data; 0: a draft"),
    Column("looked", JSON, comment="the last decision, also one to hold, and when"),
    Column("created_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    CheckConstraint(
        "state ->> 'kind' IN ('draft', 'running', 'paused', 'rolled_back', 'completed')",
        name="state_is_known",
    ),
    Index(
        "uq_rollouts_experiment_id_active",
        "experiment_id",
        unique=True,
        postgresql_where=text("state ->> 'kind' IN ('running', 'paused')"),
    ),
)

rollout_decisions = Table(
    "rollout_decisions",
    METADATA,
    Column("rollout_id", ForeignKey(rollouts.c.id, ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False, comment="from 1, without a gap"),
    Column("decision", JSON, nullable=False),
    Column("receipt", JSON, comment="null: nothing had been measured"),
    Column("by", Text, comment="null: Wald itself"),
    Column("reason", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("rollout_id", "number"),
)
