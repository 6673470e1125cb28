"""Tables of judging: versions and their trust, rules, what they sample and spend, and judgements.

Judgements and counts have no foreign keys: they outlive their rule, and are written in batches.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
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
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

from app.core.postgres import METADATA
from app.experiments.tables import experiments

judge_versions = Table(
    "judge_versions",
    METADATA,
    Column("hash", Text, primary_key=True, comment="identity of the definition"),
    Column("name", Text, nullable=False),
    # JSON, not JSONB: numbers come back exactly as they were given.
    Column("definition", JSON, nullable=False, comment="kind and settings; `operation` may change"),
    Column("serves_arm", Text, nullable=False, server_default=text("'refused'")),
    Column("trust", Text, nullable=False, server_default=text("'shadow'")),
    Column("trust_since", DateTime(timezone=True), nullable=False),
    Column("trust_reason", Text, nullable=False, server_default=text("''")),
    Column("breaker", JSONB, nullable=False, server_default=text("'{}'"), comment="see breaker.py"),
    Column("learned", JSONB, nullable=False, server_default=text("'{}'"), comment="what calls taught"),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Index(None, "name", "created_at"),
    # Only one version of a judge gives signals.
    Index("uq_judge_versions_promoted", "name", unique=True, postgresql_where=text("trust = 'promoted'")),
    CheckConstraint("trust IN ('shadow', 'calibrated', 'promoted')", name="trust_is_known"),
    CheckConstraint("serves_arm IN ('refused', 'intended')", name="serves_arm_is_known"),
)

judge_transitions = Table(
    "judge_transitions",
    METADATA,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("version_hash", ForeignKey(judge_versions.c.hash, ondelete="CASCADE"), nullable=False),
    Column("event", Text, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("evidence", JSON, comment="result of the gate or of the test of drift"),
    Index(None, "version_hash", "id"),
)

judging_rules = Table(
    "judging_rules",
    METADATA,
    Column("id", Integer, Identity(), primary_key=True),
    Column("experiment_id", ForeignKey(experiments.c.id, ondelete="CASCADE"), nullable=False),
    Column("version_hash", ForeignKey(judge_versions.c.hash), nullable=False),
    Column("settings", JSON, nullable=False, comment="filter, flags, rate, budget, priority, windows"),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("cursor", BigInteger, nullable=False, comment="responses up to it were considered"),
    Column("since", DateTime(timezone=True), comment="of a retrospective rule"),
    Column("until", DateTime(timezone=True), comment="of a retrospective rule, which then ends"),
    Column("finished_at", DateTime(timezone=True), comment="when a retrospective rule had read all"),
    Column("eligible", BigInteger, nullable=False, server_default=text("0")),
    Column(
        "mass",
        Double,
        nullable=False,
        server_default=text("0"),
        comment="sum of inclusion probabilities of eligible responses",
    ),
    Column("selected", BigInteger, nullable=False, server_default=text("0")),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Index(None, "experiment_id"),
    # One rule reads the new responses for a version, so that each has one inclusion probability.
    Index(
        "uq_judging_rules_live",
        "experiment_id",
        "version_hash",
        unique=True,
        postgresql_where=text("until IS NULL"),
    ),
    CheckConstraint("(since IS NULL) = (until IS NULL)", name="retrospective_has_both_ends"),
)

# The open window of each stratum.
judging_windows = Table(
    "judging_windows",
    METADATA,
    Column("rule_id", ForeignKey(judging_rules.c.id, ondelete="CASCADE"), nullable=False),
    Column("stratum", Text, nullable=False),
    Column("number", BigInteger, nullable=False, comment="of the windows of this stratum, from 1"),
    Column("closes_at", DateTime(timezone=True), nullable=False),
    Column("seen", BigInteger, nullable=False, comment="responses of the window; 0: it is not open"),
    Column("rate", Double, nullable=False, comment="in force since it opened"),
    Column("total", BigInteger, nullable=False, comment="responses of all its windows"),
    PrimaryKeyConstraint("rule_id", "stratum"),
)

judging_reservoirs = Table(
    "judging_reservoirs",
    METADATA,
    Column("rule_id", Integer, nullable=False),
    Column("stratum", Text, nullable=False),
    Column("point", BigInteger, nullable=False, comment="a hash; the least ones are chosen"),
    Column("response_key", Uuid, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("variant", SmallInteger, nullable=False),
    Column("assignment", Uuid, nullable=False),
    Column("unit_hash", BigInteger, nullable=False),
    Column("characters", Integer, nullable=False),
    Column("responded_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("rule_id", "stratum", "point", "response_key"),
)

# The funnel: each response of an experiment is in one of the outcomes of each rule, or waits.
judging_counts = Table(
    "judging_counts",
    METADATA,
    Column("rule_id", Integer, nullable=False),
    Column("variant", SmallInteger, nullable=False),
    Column("outcome", Text, nullable=False, comment="expected, wanted, judged, or a reason"),
    Column("n", BigInteger, nullable=False),
    PrimaryKeyConstraint("rule_id", "variant", "outcome"),
)

judging_spending = Table(
    "judging_spending",
    METADATA,
    Column("rule_id", Integer, nullable=False),
    Column("day", Date, nullable=False, comment="UTC"),
    Column("planned", BigInteger, nullable=False, server_default=text("0")),
    Column("calls", BigInteger, nullable=False, server_default=text("0"), comment="attempts"),
    Column("unpriced", BigInteger, nullable=False, server_default=text("0"), comment="of them"),
    Column("cost_usd", Double, nullable=False, server_default=text("0")),
    Column("dearest_usd", Double, nullable=False, server_default=text("0"), comment="judgement of the day"),
    Column("eligible", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("rule_id", "day"),
)

judgements = Table(
    "judgements",
    METADATA,
    Column("id", Uuid, primary_key=True, comment="hash of version, response and repetition"),
    Column("version_hash", Text, nullable=False),
    Column("rule_id", Integer, nullable=False),
    Column("response_key", Uuid, nullable=False),
    Column("experiment_id", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("variant", SmallInteger, nullable=False),
    Column("assignment", Uuid, nullable=False),
    Column("unit_hash", BigInteger, nullable=False),
    Column("stratum", Text, nullable=False),
    Column("inclusion_probability", Double, nullable=False),
    Column("repetition", SmallInteger, nullable=False),
    Column("characters", Integer, nullable=False, comment="of the response"),
    Column("responded_at", DateTime(timezone=True), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("state", Text, nullable=False, server_default=text("'wanted'")),
    Column("score", Double),
    Column("label", SmallInteger),
    Column("probability", Double, comment="as a decision model returned it"),
    Column("reason", Text, comment="why there is no score; of a wanted one, of its last attempt"),
    Column("detail", Text, comment="the judge's reasons, or more about the failure"),
    Column("cost_usd", Double, comment="of its last attempt; null if the price is unknown"),
    Column("seconds", Double, comment="of the attempt that ended it"),
    Column("at", DateTime(timezone=True), comment="when it was judged or given up"),
    Column("priority", SmallInteger, nullable=False),
    Column("step", SmallInteger, nullable=False, server_default=text("0"), comment="in the schedule"),
    Column("attempts", Integer, nullable=False, server_default=text("0"), comment="begun, ever"),
    Column("next_attempt_at", DateTime(timezone=True), comment="null once no attempt will be made"),
    Column("leased_until", DateTime(timezone=True), comment="a worker judges it at present"),
    Column("signal", Text, comment="due -> sent; null: gives no signal"),
    CheckConstraint("state IN ('wanted', 'judged', 'unscored')", name="state_is_known"),
    CheckConstraint("(score IS NOT NULL) = (state = 'judged')", name="score_iff_judged"),
    CheckConstraint("(next_attempt_at IS NOT NULL) = (state = 'wanted')", name="wanted_has_a_next_attempt"),
    CheckConstraint(
        "inclusion_probability > 0 AND inclusion_probability <= 1", name="inclusion_probability_is_a_share"
    ),
    CheckConstraint("score BETWEEN 0 AND 1", name="score_in_unit_interval"),
    CheckConstraint("signal IN ('due', 'sent')", name="signal_is_known"),
    CheckConstraint("signal IS NULL OR state = 'judged'", name="only_scores_are_signals"),
    # What workers look for.
    Index(
        "ix_judgements_due",
        "rule_id",
        text("priority DESC"),
        "next_attempt_at",
        postgresql_where=text("next_attempt_at IS NOT NULL"),
    ),
    Index("ix_judgements_signal", "at", postgresql_where=text("signal = 'due'")),
    # What estimates and reports read.
    Index(None, "experiment_id", "version_hash"),
    Index(None, "version_hash", "response_key"),
    Index(None, "response_key"),
)

judgement_attempts = Table(
    "judgement_attempts",
    METADATA,
    Column("judgement_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False, comment="of the job"),
    Column("call", SmallInteger, nullable=False, comment="of the attempt, from 1"),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("seconds", Double, nullable=False),
    Column("status", SmallInteger, comment="null without an answer"),
    Column("tokens_in", BigInteger),
    Column("tokens_out", BigInteger),
    Column("cost_usd", Double, comment="null if the price is unknown"),
    Column("error", Text),
    PrimaryKeyConstraint("judgement_id", "attempt", "call"),
)
