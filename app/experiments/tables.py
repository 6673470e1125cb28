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
    Uuid,
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
    Column(
        "layout",
        SmallInteger,
        nullable=False,
        server_default=text("1"),
        comment="+1 with every change of what is measured of units",
    ),
    Column(
        "earlier_layouts",
        JSON,
        nullable=False,
        server_default=text("'[]'"),
        comment="those in which totals may be stored until the backfill has finished",
    ),
    Column("planned", JSON, comment="metrics of the plan; null: those of the definition"),
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

# Changes of the metrics of an experiment after its start. The first row is what it started with.
metric_changes = Table(
    "metric_changes",
    METADATA,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False, comment="from 1, without a gap"),
    Column("metrics", JSON, nullable=False, comment="all metrics after the change"),
    Column("segments", JSON, comment="segments of the plan after the change; null: none"),
    Column("reward", JSON, nullable=False, comment="the reward after the change"),
    Column("reopened", Boolean, nullable=False, comment="the change re-opened the plan"),
    Column("by", Text, comment="null: not known"),
    Column("reason", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("experiment_id", "number"),
)

# The pass over the log after a change of what is measured. The newest change replaces the row.
backfills = Table(
    "backfills",
    METADATA,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), primary_key=True),
    Column("unit_hash", BigInteger, nullable=False, comment="everything up to here is measured"),
    Column("assignment_id", Uuid, nullable=False),
    Column("done", BigInteger, nullable=False, server_default=text("0"), comment="assignments"),
    Column("expected", BigInteger, comment="assignments; null: not counted yet"),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("finished_at", DateTime(timezone=True), comment="null: it goes on"),
    Column("error", Text, comment="why the last attempt failed; null: it did not"),
    # What the backfill looks for.
    Index("ix_backfills_unfinished", "experiment_id", postgresql_where=text("finished_at IS NULL")),
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
