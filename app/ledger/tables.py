"""Tables of the ledger: the log of assignments and signals, the totals, and the position in each stream.

Rewards are whole billionths ("nano"), so that totals are exact sums whatever the order of events. The log
has no foreign keys, because it is written by bulk COPY and may be partitioned.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.core.postgres import METADATA

assignments = Table(
    "assignments",
    METADATA,
    Column("experiment_id", Integer, nullable=False),
    Column("unit_hash", BigInteger, nullable=False),
    Column("id", Uuid, nullable=False, comment="UUIDv7: begins with the time of the assignment"),
    Column("unit", Text, comment="null until the exposure itself has arrived"),
    Column("assigned_at", DateTime(timezone=True), nullable=False),
    Column("deadline", DateTime(timezone=True), nullable=False, comment="assigned_at + horizon"),
    Column("epoch", Integer, nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("variant", SmallInteger, nullable=False, comment="position in the definition's variants"),
    Column("propensity", Double, nullable=False),
    Column("context", JSONB),
    Column("exposed", Boolean, nullable=False, comment="false: so far only its feedback has arrived"),
    Column(
        "outcome",
        SmallInteger,
        nullable=False,
        server_default=text("0"),
        comment="0 pending -> 1 rewarded by signals | 2 silent, the default reward | 3 silent, censored",
    ),
    Column("reward", Integer, comment="nano; null while pending or censored"),
    PrimaryKeyConstraint("experiment_id", "unit_hash", "id"),
    CheckConstraint("outcome BETWEEN 0 AND 3", name="outcome_is_known"),
    CheckConstraint("(reward IS NOT NULL) = (outcome IN (1, 2))", name="reward_iff_resolved"),
    CheckConstraint("reward BETWEEN 0 AND 1000000000", name="reward_in_unit_interval"),
    # The sweep reads this index. It has no condition on the outcome, so storing a reward changes no index
    # and the new version of the row fits on the same page.
    Index("ix_assignments_deadline", "deadline"),
    postgresql_with={"fillfactor": 50},
)

horizons = Table(
    "horizons",
    METADATA,
    Column("id", SmallInteger, primary_key=True, autoincrement=False, comment="1: there is one row"),
    Column(
        "swept_until",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("'-infinity'"),
        comment="assignments with deadlines up to here are resolved, except overdue ones",
    ),
    CheckConstraint("id = 1", name="one_row"),
)

overdue_assignments = Table(
    "overdue_assignments",
    METADATA,
    Column("experiment_id", Integer, nullable=False),
    Column("unit_hash", BigInteger, nullable=False),
    Column("id", Uuid, nullable=False, comment="became pending when the sweep may have passed its deadline"),
)

signals = Table(
    "signals",
    METADATA,
    Column("assignment_id", Uuid, nullable=False),
    Column(
        "event_key",
        Text,
        nullable=False,
        comment="=id of the client; else #signal/source, + instead of # after the deadline, - if too early",
    ),
    Column("experiment_id", Integer, nullable=False),
    Column("unit_hash", BigInteger, nullable=False),
    Column("signal", Text, nullable=False),
    Column("source", SmallInteger, nullable=False, comment="0 implicit, 1 explicit, 2 automated, 3 human"),
    Column("value", Double, nullable=False),
    Column(
        "at", DateTime(timezone=True), nullable=False, comment="when it happened, never after received_at"
    ),
    Column("received_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("assignment_id", "event_key"),
    CheckConstraint("source BETWEEN 0 AND 3", name="source_is_known"),
)

# A signal here belongs to the unit's latest exposed assignment that is not after it. The ledger looks that up
# when it resolves a reward and stores it nowhere, because another exposure may still arrive.
unit_signals = Table(
    "unit_signals",
    METADATA,
    Column("experiment_id", Integer, nullable=False),
    Column("unit_hash", BigInteger, nullable=False),
    Column("event_key", Text, nullable=False, comment="=id of the client, or #signal/source@at"),
    Column("signal", Text, nullable=False),
    Column("source", SmallInteger, nullable=False),
    Column("value", Double, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("experiment_id", "unit_hash", "event_key"),
    CheckConstraint("source BETWEEN 0 AND 3", name="source_is_known"),
)

# Number of logged signals by name and state; each row of the log is in one state. Names that the experiment
# does not read share the row of the empty name once there are too many of them.
signal_totals = Table(
    "signal_totals",
    METADATA,
    Column("experiment_id", Integer, nullable=False),
    Column("signal", Text, nullable=False, comment="empty: all names without a row"),
    Column("counted", BigInteger, nullable=False, comment="in time, and the assignment is exposed"),
    Column("waiting", BigInteger, nullable=False, comment="in time, the exposure has not arrived"),
    Column(
        "unknown_unit",
        BigInteger,
        nullable=False,
        comment="by unit, and the unit had no assignment at that time",
    ),
    Column("late", BigInteger, nullable=False, comment="after the deadline"),
    Column("early", BigInteger, nullable=False, comment="too long before the assignment"),
    Column(
        "out_of_range", BigInteger, nullable=False, comment="values outside the declared range, in any state"
    ),
    Column("lowest", Double, comment="of all values ever logged"),
    Column("highest", Double, comment="of all values ever logged"),
    Column("last_at", DateTime(timezone=True), comment="when the last signal came"),
    PrimaryKeyConstraint("experiment_id", "signal"),
)

totals = Table(
    "totals",
    METADATA,
    Column("experiment_id", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("variant", SmallInteger, nullable=False),
    Column("assignments", BigInteger, nullable=False, server_default=text("0"), comment="exposed ones"),
    Column("rewards", BigInteger, nullable=False, server_default=text("0"), comment="exposed and resolved"),
    Column("censored", BigInteger, nullable=False, server_default=text("0")),
    Column("reward_sum", BigInteger, nullable=False, server_default=text("0"), comment="nano"),
    Column(
        "reward_square_sum", Numeric(38, 0), nullable=False, server_default=text("0"), comment="nano squared"
    ),
    PrimaryKeyConstraint("experiment_id", "epoch", "variant"),
)

# What the policy of an epoch learns beyond `totals`, if anything.
policy_totals = Table(
    "policy_totals",
    METADATA,
    Column("experiment_id", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("variant", SmallInteger, nullable=False),
    Column("part", Text, nullable=False, comment="part of the totals; empty if they have only one"),
    Column(
        "body", LargeBinary, nullable=False, comment="exact sums, as bandits encodes them; empty: none yet"
    ),
    PrimaryKeyConstraint("experiment_id", "epoch", "variant", "part"),
)

# One row for each unit in each epoch of experiments that measure units (`measures.measures_of`).
unit_totals = Table(
    "unit_totals",
    METADATA,
    Column("experiment_id", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("unit_hash", BigInteger, nullable=False),
    Column(
        "assignment_id",
        Uuid,
        nullable=False,
        comment="without stickiness each assignment is a unit; else zeros",
    ),
    Column("variant", SmallInteger, nullable=False, comment="variant of its first exposed assignment"),
    Column("segment", Text, nullable=False, comment="at its first assignment; empty if none are declared"),
    Column("crossed", Boolean, nullable=False, comment="the unit has assignments to other variants as well"),
    Column(
        "minute",
        Integer,
        comment="of its first exposed assignment, since 1970; null: stored before series existed",
    ),
    Column(
        "stratum", SmallInteger, comment="of its first exposed assignment; null, -1: shares follow no outcome"
    ),
    Column("weight", BigInteger, comment="1 / propensity of its first exposed assignment, nano"),
    Column("layout", SmallInteger, nullable=False, server_default=text("1"), comment="of the body"),
    Column("body", LargeBinary, nullable=False, comment="covariates and sums of its metrics"),
    PrimaryKeyConstraint("experiment_id", "epoch", "unit_hash", "assignment_id"),
    postgresql_with={"fillfactor": 70},
)

# Totals of the units of a cell, which the readout reads.
metric_totals = Table(
    "metric_totals",
    METADATA,
    Column("experiment_id", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("variant", SmallInteger, nullable=False),
    Column("segment", Text, nullable=False),
    Column("crossed", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False, comment="exact sums of each metric; empty: none yet"),
    PrimaryKeyConstraint("experiment_id", "epoch", "variant", "segment", "crossed"),
)

# Where the shares may follow outcomes: units by the stratum of the shares of their first assignment, whatever
# they were assigned to later. With more than two variants the strata are periods of time.
share_totals = Table(
    "share_totals",
    METADATA,
    Column("experiment_id", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("stratum", SmallInteger, nullable=False),
    Column("variant", SmallInteger, nullable=False),
    Column(
        "body",
        LargeBinary,
        nullable=False,
        comment="exact sums of each metric and 1 / propensity; empty: none",
    ),
    PrimaryKeyConstraint("experiment_id", "epoch", "stratum", "variant"),
)

# Totals by time, without covariates: units by the minute of their first assignment in the epoch, older ones
# by the hour and day. Rows of one time add up: a late change is a minute until it is thinned.
metric_series = Table(
    "metric_series",
    METADATA,
    Column("experiment_id", Integer, nullable=False),
    Column("minute", Integer, nullable=False, comment="the first of its span, since 1970"),
    Column("span", SmallInteger, nullable=False, comment="1, 60 or 1440 minutes"),
    Column("epoch", Integer, nullable=False),
    Column("variant", SmallInteger, nullable=False),
    Column("crossed", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False, comment="exact sums of each metric; empty: none yet"),
    PrimaryKeyConstraint("experiment_id", "minute", "span", "epoch", "variant", "crossed"),
    # Thinning reads this index.
    Index(None, "span", "minute"),
)

# Only where shares move and are the same for all requests. A draw is each assignment or, with stickiness,
# each unit's first in the experiment.
draws = Table(
    "draws",
    METADATA,
    Column("experiment_id", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("variant", SmallInteger, nullable=False),
    Column("assignments", BigInteger, nullable=False, comment="exposed assignments of known policy versions"),
    Column(
        "probability_sum",
        Numeric(38, 0),
        nullable=False,
        comment="sum of the variant's probabilities over all draws, in parts of 2**32",
    ),
    PrimaryKeyConstraint("experiment_id", "epoch", "variant"),
)

stream_positions = Table(
    "stream_positions",
    METADATA,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column(
        "position",
        Text,
        nullable=False,
        server_default=text("'0-0'"),
        comment="the last stream entry applied",
    ),
    Column("applied", BigInteger, nullable=False, server_default=text("0"), comment="events up to there"),
    Column("watermark", DateTime(timezone=True), comment="everything acknowledged before it is in the log"),
    Column("owner", Text),
    Column("fence", BigInteger, nullable=False, server_default=text("0"), comment="+1 with every new owner"),
    Column("lease_until", DateTime(timezone=True)),
    Column("session", Text, comment="session of the owner; the shard is free once it has ended"),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

dead_letters = Table(
    "dead_letters",
    METADATA,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("shard", SmallInteger, nullable=False),
    Column("stream_id", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("error", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("uq_dead_letters_shard_stream_id", "shard", "stream_id", unique=True),
)
