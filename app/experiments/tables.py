"""Tables of experiments: definitions, epochs of the allocation rule, due publications."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

from app.core.postgres import METADATA

experiments = Table(
    "experiments",
    METADATA,
    Column("id", Integer, Identity(), primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    # JSON, not JSONB: numbers and the order of keys in payloads come back exactly as they were
    # given.
    Column("definition", JSON, nullable=False),
    Column(
        "reads_silence",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="a metric is told something by a horizon that passes without a signal",
    ),
    Column(
        "state", JSONB, nullable=False, comment="{kind: draft | running | paused | stopped | archived, ...}"
    ),
    Column(
        "held",
        JSONB,
        nullable=False,
        server_default=text("'{}'"),
        comment="shares of variants that a rollout holds, by their keys",
    ),
    Column("killed", Boolean, nullable=False, server_default=text("false")),
    Column("salt", LargeBinary, nullable=False, comment="of the bucketing hash; never changes"),
    Column("epoch", Integer, nullable=False, server_default=text("1")),
    Column(
        "control_epoch",
        Integer,
        nullable=False,
        server_default=text("1"),
        comment="the first epoch of the present control",
    ),
    Column("revision", Integer, nullable=False, server_default=text("1"), comment="+1 with every change"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("key ~ '^[A-Za-z0-9._-]{1,128}$'", name="key_is_url_safe"),
    CheckConstraint("definition ->> 'key' = key", name="definition_has_its_key"),
    CheckConstraint(
        "state ->> 'kind' IN ('draft', 'running', 'paused', 'stopped', 'archived')", name="state_is_known"
    ),
    Index("ix_experiments_state", text("(state ->> 'kind')")),
    Index("ix_experiments_reads_silence", "id", postgresql_where=text("reads_silence")),
    Index("ix_experiments_killed", "id", postgresql_where=text("killed")),
)

epochs = Table(
    "epochs",
    METADATA,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("policy", JSONB, nullable=False, comment="the allocation rule in force"),
    Column("control", Text, comment="its key; null: as in the epoch after it"),
    Column("n_variants", SmallInteger, comment="null: as many as the experiment has now"),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("experiment_id", "epoch"),
)

publications = Table(
    "publications",
    METADATA,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), primary_key=True),
    Column(
        "wanted",
        BigInteger,
        nullable=False,
        server_default=text("1"),
        comment="+1 when totals or definition change",
    ),
    Column(
        "published",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="the `wanted` last published",
    ),
    Column("due_at", DateTime(timezone=True), comment="when the passing of time changes the allocation"),
    # What the reallocation loop looks for.
    Index("ix_publications_due", "experiment_id", postgresql_where=text("published < wanted")),
    Index("ix_publications_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
)
