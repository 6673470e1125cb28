"""Table of analysis: the history of readouts."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
)

from app.core.postgres import METADATA
from app.experiments.tables import experiments

readouts = Table(
    "readouts",
    METADATA,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, comment="the moment that was read"),
    Column(
        "wanted",
        BigInteger,
        nullable=False,
        comment="the experiment's `publications.wanted` then: another one is kept when it has moved",
    ),
    Column(
        "body",
        LargeBinary,
        nullable=False,
        comment="the status as JSON without its allocation history, compressed by zlib",
    ),
    PrimaryKeyConstraint("experiment_id", "at"),
    # What thinning reads.
    Index(None, "at"),
)
