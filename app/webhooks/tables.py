"""Tables of webhooks: receivers, messages, deliveries, and the last attempts of each."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from app.core.postgres import METADATA

webhook_endpoints = Table(
    "webhook_endpoints",
    METADATA,
    Column("id", Integer, Identity(), primary_key=True),
    Column("url", Text, nullable=False),
    Column("adapter", Text, nullable=False, comment="what the receiver understands"),
    Column("events", ARRAY(Text), nullable=False, comment="event types, PREFIX.* or *"),
    Column("description", Text, nullable=False, server_default=text("''")),
    Column("secret", Text, comment="ours to sign with, or the receiver's to know us by"),
    Column("previous_secret", Text, comment="signs as well until previous_until"),
    Column("previous_until", DateTime(timezone=True)),
    Column("disabled_at", DateTime(timezone=True)),
    Column("disabled_reason", Text),
    Column(
        "failing_since", DateTime(timezone=True), comment="a delivery was given up, and none arrived since"
    ),
    Column("created_at", DateTime(timezone=True), nullable=False),
    CheckConstraint(
        "adapter IN ('standard', 'slack', 'pagerduty', 'alertmanager', 'github')", name="adapter_is_known"
    ),
    CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled_for_a_reason"),
    CheckConstraint("(previous_secret IS NULL) = (previous_until IS NULL)", name="previous_secret_expires"),
)

webhook_messages = Table(
    "webhook_messages",
    METADATA,
    Column(
        "id",
        Uuid,
        primary_key=True,
        server_default=func.gen_random_uuid(),
        comment="the webhook-id, the same in every attempt",
    ),
    Column("key", Text, nullable=False, unique=True, comment="of the event: one event, one message"),
    Column("type", Text, nullable=False),
    # Text, not JSONB: what is signed and sent are these very bytes.
    Column("body", Text, nullable=False, comment="{type, timestamp, data}"),
    Column("created_at", DateTime(timezone=True), nullable=False),
    # What thinning reads.
    Index(None, "created_at"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    METADATA,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("message_id", ForeignKey(webhook_messages.c.id, ondelete="CASCADE"), nullable=False),
    Column("endpoint_id", ForeignKey(webhook_endpoints.c.id, ondelete="CASCADE"), nullable=False),
    Column("state", Text, nullable=False, server_default=text("'pending'")),
    Column("step", SmallInteger, nullable=False, server_default=text("0"), comment="in the schedule"),
    Column("attempts", Integer, nullable=False, server_default=text("0"), comment="begun, ever"),
    Column("next_attempt_at", DateTime(timezone=True), comment="null once no attempt will be made"),
    Column("leased_until", DateTime(timezone=True), comment="a worker sends it at present"),
    UniqueConstraint("message_id", "endpoint_id"),
    CheckConstraint("state IN ('pending', 'delivered', 'failed', 'given_up')", name="state_is_known"),
    CheckConstraint(
        "(next_attempt_at IS NOT NULL) = (state IN ('pending', 'failed'))",
        name="open_ones_have_a_next_attempt",
    ),
    # What workers look for: of each endpoint those that are due.
    Index(
        "ix_webhook_deliveries_due",
        "endpoint_id",
        "next_attempt_at",
        postgresql_where=text("next_attempt_at IS NOT NULL"),
    ),
    # The pages of an endpoint's deliveries.
    Index(None, "endpoint_id", "id"),
)

webhook_attempts = Table(
    "webhook_attempts",
    METADATA,
    Column("delivery_id", ForeignKey(webhook_deliveries.c.id, ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False, comment="of the delivery's attempts, from 1"),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("status", SmallInteger, comment="of the answer; null where there was none"),
    Column("error", Text, comment="null when it was delivered"),
    Column("duration_ms", Integer, nullable=False),
    PrimaryKeyConstraint("delivery_id", "number"),
)
