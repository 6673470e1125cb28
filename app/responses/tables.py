"""Tables of responses.

`response_keys` has one small row for each response: it drops repeats, is the address of a
`response_id`, and outlives the texts. `responses` has the texts, partitioned by the day on which
they expire, so that a day is dropped as a whole.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
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

from app.core.postgres import METADATA

response_keys = Table(
    "response_keys",
    METADATA,
    Column("response_key", Uuid, primary_key=True, comment="hash of the experiment and the response_id"),
    Column("experiment_id", Integer, nullable=False),
    Column("unit_hash", BigInteger, nullable=False),
    Column("expires_on", Date, nullable=False, comment="partition of its row in responses"),
    Column("id_hash", BigInteger, comment="of the response_id; null without one"),
    Column("seq", BigInteger, comment="order of storing; null: its unit has no assignment yet"),
    Column("assignment", LargeBinary, comment="body of the assignment id; null as seq"),
    # Readers go through responses in this order.
    Index("uq_response_keys_seq", "seq", unique=True),
    Index("ix_response_keys_experiment_id_seq", "experiment_id", "seq"),
    Index("ix_response_keys_id_hash", "id_hash", postgresql_where=text("id_hash IS NOT NULL")),
    Index("ix_response_keys_waiting", "response_key", postgresql_where=text("seq IS NULL")),
)

responses = Table(
    "responses",
    METADATA,
    Column("expires_on", Date, nullable=False),
    Column("response_key", Uuid, nullable=False),
    Column("experiment_id", Integer, nullable=False),
    Column("unit_hash", BigInteger, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, comment="when it was shown"),
    Column("assignment", Uuid, comment="null while its unit has no assignment; epoch and variant as well"),
    Column("epoch", Integer),
    Column("variant", SmallInteger, comment="position in the definition's variants"),
    Column("failed", Boolean, nullable=False, comment="the model gave an error"),
    Column("tokens_in", Integer),
    Column("tokens_out", Integer),
    Column("latency_ms", Double),
    Column("cost_usd", Double),
    Column("unit", Text, comment="null if the sender named an assignment, or once erased"),
    Column("response_id", Text),
    Column("session_id", Text),
    Column("model", Text),
    Column("finish_reason", Text),
    Column("body", LargeBinary, comment="texts, compressed (texts.py); null: erased on request"),
    PrimaryKeyConstraint("expires_on", "response_key"),
    Index("ix_responses_unit_hash", "unit_hash"),
    postgresql_partition_by="RANGE (expires_on)",
)

# Why a response must be kept beyond its day: a pending judgement, an open review.
response_holds = Table(
    "response_holds",
    METADATA,
    Column("response_key", Uuid, nullable=False),
    Column("holder", Text, nullable=False, comment="room that needs it"),
    Column("held_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("response_key", "holder"),
)

# Feedback by response_id that does not count yet: its response has not come, it names several
# responses, or the experiment refuses it.
response_feedback = Table(
    "response_feedback",
    METADATA,
    Column("id_hash", BigInteger, nullable=False, comment="of the response_id"),
    Column("experiment_id", Integer, nullable=False, comment="0: the sender named none"),
    Column("event_key", Text, nullable=False, comment="=id of the client, or #signal/source"),
    Column("response_id", Text, nullable=False),
    Column("signal", Text, nullable=False),
    Column("source", SmallInteger, nullable=False),
    Column("value", Double, comment="null: the default value of the signal"),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("event_id", Text),
    Column("state", Text, nullable=False, comment="waiting -> counted, row deleted | ambiguous | refused"),
    Column("reason", Text, comment="why it is ambiguous or refused"),
    PrimaryKeyConstraint("id_hash", "experiment_id", "event_key"),
    CheckConstraint("state IN ('waiting', 'ambiguous', 'refused')", name="state_is_known"),
    Index("ix_response_feedback_received_at", "received_at"),
)

# Units whose texts were deleted on request: what arrived before is stored without its texts.
response_erasures = Table(
    "response_erasures",
    METADATA,
    Column("experiment_id", Integer, nullable=False),
    Column("unit_hash", BigInteger, nullable=False),
    Column("erased_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("experiment_id", "unit_hash"),
)

# The day up to which texts are dropped.
response_expiry = Table(
    "response_expiry",
    METADATA,
    Column("id", SmallInteger, primary_key=True, autoincrement=False, comment="1: there is one row"),
    Column("day", Date, nullable=False, comment="the last day that was believed"),
    CheckConstraint("id = 1", name="one_row"),
)
