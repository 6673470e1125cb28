"""Table of assignment: each published experiment as servers load it."""

from sqlalchemy import BigInteger, Column, ForeignKey, LargeBinary, Table

from app.core.postgres import METADATA
from app.experiments.tables import experiments

published_experiments = Table(
    "published_experiments",
    METADATA,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), primary_key=True),
    Column("version", BigInteger, nullable=False, comment="policy_version + revision"),
    Column("body", LargeBinary, nullable=False, comment="MessagePack PublishedExperiment, as in Valkey"),
)
