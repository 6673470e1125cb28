"""Tables of reviews: settings, the state of the sample, items, answers, and leases."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
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
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.core.postgres import METADATA
from app.experiments.tables import experiments

# A change adds a revision, so that each item keeps the rubric and labels that its reviewers saw.
review_settings = Table(
    "review_settings",
    METADATA,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    Column("revision", Integer, nullable=False, comment="from 1; the greatest one is in force"),
    Column("rate", Double, nullable=False, comment="share of responses in the sample"),
    Column("rubric", Text, nullable=False),
    Column("labels", JSONB, nullable=False, comment="word of each label by its digit"),
    Column("reviewers", SmallInteger, nullable=False, comment="distinct reviewers of one item"),
    Column("lease_s", Integer, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("experiment_id", "revision"),
    CheckConstraint("rate BETWEEN 0 AND 1", name="rate_is_a_share"),
)

review_sampling = Table(
    "review_sampling",
    METADATA,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), primary_key=True),
    Column("cursor", BigInteger, nullable=False, comment="responses up to it are sampled"),
)

# The sample of each stratum is systematic: see app/reviews/sampling.py.
review_strata = Table(
    "review_strata",
    METADATA,
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    Column("variant", SmallInteger, nullable=False),
    Column("segment", Text, nullable=False, comment="empty: none declared, or not known in time"),
    Column("responses", BigInteger, nullable=False),
    Column("sampled", BigInteger, nullable=False),
    Column("mass", BigInteger, nullable=False, comment="sum of the rates of its responses, in nano"),
    PrimaryKeyConstraint("experiment_id", "variant", "segment"),
)

# One response to review. What estimates need is copied, because the response itself expires.
review_items = Table(
    "review_items",
    METADATA,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    Column("response_key", Uuid, nullable=False),
    Column("response_id", Text, comment="the client's name of the response"),
    Column("queue", Text, nullable=False),
    Column("inclusion_probability", Double, comment="of the probability sample; null in other queues"),
    Column("epoch", Integer, nullable=False),
    Column("variant", SmallInteger, nullable=False),
    Column("segment", Text, nullable=False),
    Column("assignment", Uuid, nullable=False),
    Column("unit_hash", BigInteger, nullable=False),
    Column("detail", Text, nullable=False, comment="why it was queued; reviewers do not see it"),
    Column("rank", BigInteger, nullable=False, comment="a hash: the order in which items are claimed"),
    Column(
        "revision", Integer, nullable=False, comment="settings of its reviews; newest until the first claim"
    ),
    Column("wanted", SmallInteger, nullable=False, comment="distinct reviewers"),
    Column(
        "labelled", SmallInteger, nullable=False, server_default=text("0"), comment="reviewers with a label"
    ),
    Column(
        "skipped", SmallInteger, nullable=False, server_default=text("0"), comment="reviewers who skipped"
    ),
    Column("taken", SmallInteger, nullable=False, server_default=text("0"), comment="labelled, or leased"),
    Column("state", Text, nullable=False, server_default=text("'open'")),
    Column("answers", Integer, nullable=False, server_default=text("0"), comment="with corrections"),
    Column("signalled", Integer, nullable=False, server_default=text("0"), comment="answers in its signal"),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False, comment="time of the last answer"),
    UniqueConstraint("response_key", "queue"),
    CheckConstraint("queue IN ('sample', 'disagreement', 'imported')", name="queue_is_known"),
    CheckConstraint(
        "(inclusion_probability IS NOT NULL) = (queue = 'sample')", name="only_a_sample_has_a_probability"
    ),
    CheckConstraint(
        "inclusion_probability > 0 AND inclusion_probability <= 1", name="inclusion_probability_is_a_share"
    ),
    CheckConstraint("state IN ('open', 'done', 'given_up')", name="state_is_known"),
    # Exactly the wanted number of reviewers, whatever the code does.
    CheckConstraint("labelled BETWEEN 0 AND taken AND taken <= wanted", name="no_more_reviewers_than_wanted"),
    # What claims look for: items with labels first, so that they are completed.
    Index(
        "ix_review_items_open",
        "experiment_id",
        text("labelled DESC"),
        "rank",
        postgresql_where=text("state = 'open'"),
    ),
    Index(None, "experiment_id", "id"),
    Index(None, "experiment_id", "response_id"),
    Index(
        "ix_review_items_unsignalled",
        "id",
        postgresql_where=text("queue = 'sample' AND signalled < answers"),
    ),
    Index(None, "assignment"),
)

# Every answer of every reviewer, never changed: a correction is the next revision.
reviews = Table(
    "reviews",
    METADATA,
    Column("item_id", ForeignKey(review_items.c.id, ondelete="CASCADE"), nullable=False),
    Column("reviewer", Text, nullable=False, comment="key:ID of an API key, or import:NAME"),
    Column("revision", Integer, nullable=False, comment="from 1; the greatest one counts"),
    Column("label", SmallInteger, comment="null: skipped"),
    Column("reason", Text, comment="of a skip"),
    Column("comment", Text, nullable=False),
    Column("seconds", Double, comment="time that the reviewer took, if it is known"),
    Column("at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("item_id", "reviewer", "revision"),
    CheckConstraint("(label IS NULL) = (reason IS NOT NULL)", name="a_label_or_a_reason"),
    CheckConstraint("label BETWEEN 0 AND 9", name="label_is_a_digit"),
)

# A place in an item, reserved for a reviewer. No clock ends it: see app/reviews/loop.py. A lease
# that has ended stays as proof that the reviewer was given the item.
review_leases = Table(
    "review_leases",
    METADATA,
    Column("item_id", ForeignKey(review_items.c.id, ondelete="CASCADE"), nullable=False),
    Column("experiment_id", Integer, nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("token", Uuid, nullable=False),
    Column("renewals", Integer, nullable=False, server_default=text("0"), comment="signs of life"),
    Column("ended", Boolean, nullable=False, server_default=text("false"), comment="its place is free again"),
    Column("claimed_at", DateTime(timezone=True), nullable=False, comment="to tell how long a review took"),
    PrimaryKeyConstraint("item_id", "reviewer"),
    # A reviewer holds one item of an experiment at a time.
    Index(
        "uq_review_leases_active",
        "experiment_id",
        "reviewer",
        unique=True,
        postgresql_where=text("NOT ended"),
    ),
)
