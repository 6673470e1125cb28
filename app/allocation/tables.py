"""Tables of allocation: its history, and what still has to be recomputed or published."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from app.core.postgres import METADATA
from app.experiments.tables import experiments

allocations = Table(
    "allocations",
    METADATA,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False, comment="the policy_version of assignments"),
    Column("epoch", Integer, nullable=False),
    Column("totals_revision", BigInteger, nullable=False, comment="of the totals it was computed from"),
    Column("weights", ARRAY(BigInteger), nullable=False, comment="parts of 2**32, in the order of the variants"),
    Column("probability_best", ARRAY(Double), comment="null where the policy does not use it"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("experiment_id", "version"),
)

allocation_state = Table(
    "allocation_state",
    METADATA,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), primary_key=True),
    Column("totals_revision", BigInteger, nullable=False, server_default=text("1"), comment="+1 with every ledger batch or definition change"),
    Column("published_revision", BigInteger, nullable=False, server_default=text("0"), comment="the totals_revision last published to Valkey"),
    # What the reallocation loop looks for: published_revision < totals_revision.
    Index("ix_allocation_state_due", "experiment_id", postgresql_where=text("published_revision < totals_revision")),
)
