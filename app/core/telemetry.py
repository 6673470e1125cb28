"""Prometheus metrics of all processes on this machine, behind one `/metrics`.

Processes started together share `PROMETHEUS_MULTIPROC_DIR`. A scrape of any of them covers all, and
counters outlive a process that dies. The fast path counts in plain integers, which `FastCounter`
adds here.
"""

import asyncio
import os
from bisect import bisect_left
from collections.abc import Iterable
from typing import Final, NamedTuple, cast

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from app.core.limits import LABEL_SETS_MAX

CONTENT_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8"

PRIVATE_LABELS: Final = frozenset(
    {"experiment", "variant", "guardrail", "signal", "metric", "unit", "rollout", "webhook", "judge"}
    | {"host", "pid"}
)
"""Labels that name a user's object or a process. Callers without a key do not see them."""

ASSIGNMENTS: Final = Counter(
    "wald_assignments", "Assignments answered.", ["experiment", "variant", "reason", "recorded"]
)
ASSIGN_SECONDS: Final = Histogram(
    "wald_assign_duration_seconds",
    "Time from the request's headers to its answer.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
)
EXPOSURE_FLUSHES: Final = Counter("wald_exposure_flushes", "Group commits of exposures.", ["result"])
FEEDBACK: Final = Counter("wald_feedback", "Feedback events by result.", ["result"])
RESPONSES_RECEIVED: Final = Counter("wald_responses_received", "Responses by result.", ["result"])
RESPONSES_STORED: Final = Counter(
    "wald_responses_stored", "Responses and feedback about them that the worker has processed.", ["result"]
)
RESPONSES_WAITING: Final = Gauge(
    "wald_responses_waiting",
    "Stored responses without an assignment yet, and feedback without a response yet.",
    ["kind"],
    multiprocess_mode="mostrecent",
)
RESPONSES_EXPIRED: Final = Counter("wald_responses_expired", "Days of texts that were dropped.")
LEDGER_EVENTS: Final = Counter("wald_ledger_events", "Events that the ledger has processed.", ["result"])
LEDGER_BATCH_SECONDS: Final = Histogram(
    "wald_ledger_batch_duration_seconds",
    "Time of one ledger transaction.",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
CONTEXT_MISFITS: Final = Counter(
    "wald_context_misfits",
    "Rewards that a policy does not learn from: their context does not fit its features.",
)
UNUSABLE_TOTALS: Final = Counter(
    "wald_unusable_totals", "Rows of totals that could not be read: run wald rebuild.", ["table"]
)
BACKFILLS: Final = Gauge(
    "wald_backfills",
    "Experiments whose changed metrics are still being measured.",
    multiprocess_mode="mostrecent",
)
BACKFILLED: Final = Counter(
    "wald_backfilled_assignments", "Assignments measured again because metrics have changed."
)
REALLOCATIONS: Final = Counter("wald_reallocations", "Allocations computed.", ["result"])
STREAM_LAG: Final = Gauge(
    "wald_stream_lag_events", "Acknowledged events not yet in the ledger.", multiprocess_mode="mostrecent"
)
WATERMARK_AGE: Final = Gauge(
    "wald_apply_watermark_age_seconds",
    "Time since which acknowledged events may be missing from the ledger.",
    multiprocess_mode="mostrecent",
)
SNAPSHOT_AGE: Final = Gauge(
    "wald_snapshot_age_seconds",
    "Time since the snapshot was last known current.",
    multiprocess_mode="livemax",
)
SNAPSHOT_FILES: Final = Counter(
    "wald_snapshot_files", "Snapshot files: read, ignored, written, or failed to be written.", ["result"]
)
ALLOCATION: Final = Gauge(
    "wald_variant_allocation_ratio",
    "Share of traffic of a variant.",
    ["experiment", "variant"],
    multiprocess_mode="mostrecent",
)
LEARNING_FROZEN: Final = Gauge(
    "wald_learning_frozen",
    "1 while a policy holds its allocation because its data are broken.",
    ["experiment"],
    multiprocess_mode="mostrecent",
)
READOUTS: Final = Counter("wald_readouts", "Readouts kept.")
ROLLOUTS: Final = Gauge(
    "wald_rollouts", "Rollouts by their state.", ["state"], multiprocess_mode="mostrecent"
)
ROLLOUT_DECISIONS: Final = Counter(
    "wald_rollout_decisions", "Decisions about rollouts, by kind and by who made them.", ["kind", "by"]
)
ROLLBACKS: Final = Counter("wald_rollbacks", "Rollbacks of canaries by their reason.", ["reason"])
ROLLOUT_DATA_AGE: Final = Histogram(
    "wald_rollout_decision_data_age_seconds",
    "Age of the data at a decision: time since which data may be missing.",
    buckets=(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0),
)
ROLLOUT_LOOK_AGE: Final = Gauge(
    "wald_rollout_look_age_seconds",
    "Time since the last look at a rollout; the longest of all rollouts.",
    multiprocess_mode="mostrecent",
)
GUARDRAIL_STATE: Final = Gauge(
    "wald_guardrail_state",
    "Verdict of the last look: 1 safe, 0 not enough data, -1 harm; NaN once the rollout has ended.",
    ["experiment", "variant", "guardrail"],
    multiprocess_mode="mostrecent",
)
REVIEWS: Final = Counter(
    "wald_reviews", "Answers of reviewers: label, skip, correction or import.", ["result"]
)
REVIEW_ITEMS: Final = Gauge(
    "wald_review_items",
    "Items to review by queue and state.",
    ["queue", "state"],
    multiprocess_mode="mostrecent",
)
REVIEWS_SAMPLED: Final = Counter(
    "wald_review_sampling", "Responses that the sample has looked at, by result.", ["result"]
)
REVIEW_LEASES_ENDED: Final = Counter(
    "wald_review_leases_ended", "Leases that ended because their reviewer gave no sign."
)
WEBHOOK_DELIVERIES: Final = Counter(
    "wald_webhook_deliveries", "Attempts to deliver webhooks, by the state of the delivery.", ["result"]
)
JUDGED_RESPONSES: Final = Counter(
    "wald_judgements", "Judgements: wanted, judged, repeated later, or why there is no score.", ["result"]
)
JUDGE_CALLS: Final = Counter("wald_judge_calls", "Calls of judges that ask an endpoint.", ["judge", "result"])
JUDGE_SECONDS: Final = Histogram(
    "wald_judge_call_duration_seconds",
    "Time of one call of a judge.",
    buckets=(0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0),
)
JUDGE_COST: Final = Counter(
    "wald_judge_cost_usd", "Cost of the calls of judges, where it is known.", ["judge"]
)
JUDGE_SIGNALS: Final = Counter("wald_judge_signals", "Scores of promoted judges sent as signals.", ["judge"])
JUDGE_WAITING: Final = Gauge(
    "wald_judgements_waiting", "Judgements that are wanted and not made yet.", multiprocess_mode="mostrecent"
)
JUDGE_BREAKER: Final = Gauge(
    "wald_judge_breaker_state",
    "Breaker of a judge version: 0 closed, 1 half open, 2 open.",
    ["judge", "version"],
    multiprocess_mode="mostrecent",
)
CONNECTIONS_REFUSED: Final = Counter(
    "wald_connections_refused",
    "Connections closed because of their client, by status or `evicted`.",
    ["status"],
)
CLOCK_SKEW: Final = Gauge(
    "wald_clock_skew_seconds",
    "How far a clock is ahead of the shared time: of the machine, or of PostgreSQL.",
    ["clock"],
    multiprocess_mode="mostrecent",
)
CLOCK_JUMPS: Final = Counter("wald_clock_jumps", "Jumps of PostgreSQL's clock that were not followed.")
CLOCK_STEPS: Final = Counter(
    "wald_clock_steps", "Times that a process moved its clock because all others disagreed with it."
)
DEGRADED: Final = Gauge(
    "wald_degraded", "1 while a component does not work.", ["component"], multiprocess_mode="livemax"
)


class FastCounter:
    """Counts by label values in a plain dict. `flush` adds them to a Prometheus counter.

    Use it where a Prometheus counter (about 1 µs per call) would be a visible share of the work.
    The first `LABEL_SETS_MAX` sets of label values get a series each; all others share `other`.
    """

    def __init__(self, counter: Counter) -> None:
        self.counts: dict[tuple[str, ...], int] = {}
        self._counter = counter
        self._series: dict[tuple[str, ...], Counter] = {}

    def add(self, labels: tuple[str, ...], amount: int = 1) -> None:
        """Add `amount` to the count of these label values."""
        self.counts[labels] = self.counts.get(labels, 0) + amount

    def flush(self) -> None:
        """Move all counts to Prometheus."""
        counts, self.counts = self.counts, {}
        others = 0
        for labels, amount in counts.items():
            series = self._series.get(labels)
            if series is None and len(self._series) < LABEL_SETS_MAX:
                series = self._series[labels] = self._counter.labels(*labels)
            if series is None:
                others += amount
            else:
                series.inc(amount)
        if others:
            self._counter.labels(*["other"] * len(labels)).inc(others)


class FastHistogram:
    """Observations in a plain list of buckets. `flush` adds them to a Prometheus histogram."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._bounds = histogram._upper_bounds  # noqa: SLF001 - the library has no bulk interface
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def flush(self) -> None:
        """Move all observations to Prometheus."""
        counts, self._counts = self._counts, [0] * len(self._bounds)
        total, self._sum = self._sum, 0.0
        self._histogram._sum.inc(total)  # noqa: SLF001
        for bucket, count in zip(self._histogram._buckets, counts, strict=True):  # noqa: SLF001
            if count:
                bucket.inc(count)


class Exposition(NamedTuple):
    """The texts of a scrape: all metrics, and the public part."""

    whole: bytes
    public: bytes


async def expositions() -> Exposition:
    """Collect the metrics once, in a thread, and return both texts."""
    return await asyncio.to_thread(_expositions)


def _expositions() -> Exposition:
    families = list(_registry().collect())
    return Exposition(_text(families), _text([_public(family) for family in families if _shown(family)]))


def _registry() -> CollectorRegistry:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


class _Collected:
    """A registry for `generate_latest` of families that are already collected."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return self._families


def _text(families: Iterable[Metric]) -> bytes:
    return generate_latest(cast("CollectorRegistry", _Collected(families)))


def _shown(family: Metric) -> bool:
    """Return whether a family is public. Gauges by experiment have no meaningful sum."""
    ours = family.name.startswith("wald_")
    named = any(PRIVATE_LABELS & sample.labels.keys() for sample in family.samples)
    return ours and not (named and family.type == "gauge")


def _public(family: Metric) -> Metric:
    """Return the family summed over its private labels."""
    sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in family.samples:
        if sample.name.endswith("_created"):
            continue
        kept = tuple((name, value) for name, value in sample.labels.items() if name not in PRIVATE_LABELS)
        sums[sample.name, kept] = sums.get((sample.name, kept), 0.0) + sample.value
    public = Metric(family.name, family.documentation, family.type, family.unit)
    for (name, labels), value in sums.items():
        public.add_sample(name, dict(labels), value)
    return public
