"""Tables of allocation: its history, warm starts, when policies did not learn, and kills."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from app.core.postgres import METADATA
from app.experiments.tables import experiments

allocations = Table(
    "allocations",
    METADATA,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False, comment="the policy_version of assignments"),
    Column("epoch", Integer, nullable=False),
    Column(
        "weights", ARRAY(BigInteger), nullable=False, comment="parts of 2**32, in the order of the variants"
    ),
    Column("contextual", LargeBinary, comment="digest of the posterior that was published with the weights"),
    Column("winner", JSONB, comment="what best_arm has decided, for good"),
    Column("wanted", BigInteger, comment="the publication it was computed for"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    PrimaryKeyConstraint("experiment_id", "version"),
    # What thinning reads.
    Index(None, "created_at"),
)

warm_starts = Table(
    "warm_starts",
    METADATA,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column(
        "totals", JSONB, nullable=False, comment="of the other experiment, in the order of the variants here"
    ),
    PrimaryKeyConstraint("experiment_id", "epoch"),
)

# Who killed an experiment, why and when, and how that ended.
kills = Table(
    "kills",
    METADATA,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("ended_by", Text),
    Column("ended_reason", Text),
    Column("ended_at", DateTime(timezone=True)),
    Index("ix_kills_experiment_id", "experiment_id"),
)

freezes = Table(
    "freezes",
    METADATA,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    Column("since", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("causes", JSONB, nullable=False, comment="what is wrong with the data"),
    Column("held", LargeBinary, nullable=False, comment="what the policy decides by meanwhile"),
    Column("lifted_at", DateTime(timezone=True), comment="null while it lasts"),
    Column("lifted_by", Text, comment="name of the API key; null: all causes had passed"),
    Column("reason", Text),
    CheckConstraint("(lifted_at IS NULL) = (reason IS NULL)", name="lifted_for_a_reason"),
    Index(None, "experiment_id", "id"),
    Index("uq_freezes_lasting", "experiment_id", unique=True, postgresql_where=text("lifted_at IS NULL")),
)
