"""The card of one experiment. Pure: a definition and a status in, words and numbers out."""

from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from typing import Final, Self

import msgspec
from msgspec import UnsetType

from app.analysis.descriptive import MetricFigures
from app.analysis.readout.model import AllocationAt, RolloutStatus, Status, VariantStatus
from app.experiments.metric_history import Backfill
from app.experiments.model import Definition, Draft, Experiment, Stopped
from app.experiments.policies.rule import AdaptivePolicy
from app.experiments.reward_text import duration, reward_in_words, silence

PAYLOAD_SHOWN_MAX: Final = 500


class Row(msgspec.Struct, frozen=True):
    """One variant. None means not known; the page shows it as missing."""

    key: str
    control: bool
    retired: bool
    payload: str
    assignments: int
    rewards: int
    pending: int
    censored: int
    mean: float | None
    interval: tuple[float, float] | None
    probability_best: float | None
    allocation: float | None
    offset: float  # the sum of the shares above it


class Scale(msgspec.Struct, frozen=True):
    """The common axis of all intervals of a card."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Return the place of a value on the axis, 0 to 100."""
        return 100 * (value - self.low) / (self.high - self.low)


class History(msgspec.Struct, frozen=True):
    """Shares over time: one row of `shares` per variant, one column per time (ms)."""

    variants: list[str]
    times: list[int]
    shares: list[list[float]]

    @classmethod
    def of(cls, experiment: Experiment, status: Status, now: datetime) -> Self:
        """Return the shares from the start until `now`, or until the experiment was stopped."""
        variants = [variant.key for variant in status.variants]
        points: Sequence[AllocationAt] = status.allocation_history
        if not points or isinstance(experiment.state, Draft):
            return cls(variants, [], [[] for _ in variants])
        times = [_ms(point.at) for point in points]
        shares = [list(column) for column in zip(*(point.shares for point in points), strict=True)]
        end = experiment.state.stopped_at if isinstance(experiment.state, Stopped) else now
        times.append(max(_ms(end), times[-1]))
        for column in shares:
            column.append(column[-1])
        return cls(variants, times, shares)


class Card(msgspec.Struct, frozen=True):
    """The values that the template of a card reads."""

    key: str
    description: str
    state: str
    policy: str
    silence: str
    reward: str
    policy_version: int | None
    lag_events: int | None
    warnings: list[str]
    winner: str | None
    conclusion: str
    rows: list[Row]
    leader: Row | None  # of the readout, else by P(best); None until there are rewards
    scale: Scale | None
    history: History
    rollouts: list[RolloutStatus]  # the newest first
    figures: list[MetricFigures]
    backfill: Backfill | None  # None once it has finished

    @classmethod
    def of(cls, experiment: Experiment, status: Status, now: datetime) -> Self:
        """Return the card of an experiment for its status."""
        definition = experiment.definition
        rows = _rows(definition, status.variants)
        compared = [row for row in rows if row.probability_best is not None]
        ahead = None if status.analysis is None else status.analysis.leader
        leading = [row for row in compared if ahead is not None and row.key == ahead.variant]
        return cls(
            key=status.key,
            description=definition.description,
            state=status.state,
            policy=_policy(definition),
            silence=f"{silence(definition.reward)} after {duration(definition.reward.horizon_s)}",
            reward=reward_in_words(definition.reward),
            policy_version=status.policy_version,
            lag_events=status.lag_events,
            warnings=status.warnings,
            winner=status.winner,
            conclusion="" if status.state == "draft" else status.conclusion,
            rows=rows,
            leader=max(leading or compared, key=lambda row: row.probability_best or 0, default=None),
            scale=_scale(rows),
            history=History.of(experiment, status, now),
            figures=status.descriptive,
            backfill=_unfinished(status.backfill),
            rollouts=[] if isinstance(status.rollouts, UnsetType) else status.rollouts,
        )

    @property
    def assignments(self) -> int:
        """Number of assignments of all variants."""
        return sum(row.assignments for row in self.rows)

    @property
    def rewards(self) -> int:
        """Number of rewards of all variants."""
        return sum(row.rewards for row in self.rows)

    @property
    def share_heading(self) -> str:
        """Heading of the shares. Only a running experiment serves by its present shares."""
        return {"running": "share now", "draft": "first share"}.get(self.state, "last share")


def _unfinished(backfill: Backfill | None) -> Backfill | None:
    return None if backfill is None or backfill.finished_at is not None else backfill


def _rows(definition: Definition, variants: Sequence[VariantStatus]) -> list[Row]:
    """Return rows in the order of the variants, without P(best) before the first reward."""
    learned = any(variant.rewards for variant in variants)
    offsets = accumulate((variant.allocation or 0.0 for variant in variants), initial=0.0)
    return [
        Row(
            key=variant.key,
            control=variant.control,
            retired=variant.retired,
            payload=_shown(defined.payload),
            assignments=variant.assignments,
            rewards=variant.rewards,
            pending=variant.pending,
            censored=variant.censored,
            mean=variant.mean,
            interval=variant.interval,
            probability_best=variant.probability_best if learned else None,
            allocation=variant.allocation,
            offset=offset,
        )
        for defined, variant, offset in zip(definition.variants, variants, offsets, strict=False)
    ]


def _scale(rows: Sequence[Row]) -> Scale | None:
    """Return an axis that holds all intervals and a margin of a twentieth."""
    intervals = [row.interval for row in rows if row.interval is not None]
    if not intervals:
        return None
    low, high = min(interval[0] for interval in intervals), max(interval[1] for interval in intervals)
    room = (high - low) / 20
    return Scale(max(0.0, low - room), min(1.0, high + room))


def _policy(definition: Definition) -> str:
    policy = definition.policy
    kind = str(policy.__struct_config__.tag).replace("_", " ")
    if isinstance(policy, AdaptivePolicy):
        return f"{kind}, exploration floor {policy.exploration_floor:.0%}"
    return kind


def _shown(payload: object) -> str:
    text = msgspec.json.encode(payload).decode()
    return text if len(text) <= PAYLOAD_SHOWN_MAX else f"{text[:PAYLOAD_SHOWN_MAX]} …"


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1_000)
