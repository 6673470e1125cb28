"""What policies learn besides the reward totals: sums over contexts, losses, segments, or times. Pure.

Like the totals they move by the difference when a reward changes, and are whole numbers: they depend on the
set of rewards, never on their order. A context that does not fit the policy's features adds nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from typing import Any, Final, Literal, NamedTuple, assert_never

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.experiments.plan import Segments
from app.experiments.policies import KINDS, Policy
from app.experiments.policies.rule import BySegment, ByTime, Contexts, Losses
from app.experiments.segments import segment_number
from app.ledger import limits
from app.ledger.rewards.model import NANO, NONE, Assignments
from bandits.features import ContextError, Schema
from bandits.linear import LinearTotals
from bandits.logistic import LogisticTotals

LEARNING_KINDS: Final = tuple(kind for kind, rule in KINDS.items() if rule.reads in {"contexts", "losses"})
"""Kinds of policies that learn more than the reward totals; others do so if they have `forgetting`."""

_LOSS_SUMS: Final = Struct("<q16s")
_REWARD_SUMS: Final = Struct("<q16s16s")


class LossSums(msgspec.Struct, frozen=True):
    """Of one variant: the number of rewards, and the sum of their importance-weighted losses in nanos."""

    n: int = 0
    losses: int = 0

    def __add__(self, other: "LossSums") -> "LossSums":
        return LossSums(self.n + other.n, self.losses + other.losses)

    def __sub__(self, other: "LossSums") -> "LossSums":
        return LossSums(self.n - other.n, self.losses - other.losses)

    def to_bytes(self) -> bytes:
        """Little-endian: 64 bits of the number, 128 of the sum."""
        return _LOSS_SUMS.pack(self.n, self.losses.to_bytes(16, "little", signed=True))

    @classmethod
    def from_bytes(cls, body: bytes) -> "LossSums":
        """The inverse of `to_bytes`. Raises ValueError if these are no sums."""
        if len(body) != _LOSS_SUMS.size:
            raise ValueError(f"{len(body)} bytes are no sums of losses")
        n, losses = _LOSS_SUMS.unpack(body)
        return cls(n, int.from_bytes(losses, "little", signed=True))


class RewardSums(msgspec.Struct, frozen=True):
    """Of one variant in a segment or time: number of rewards, their sum in nanos and that of squares."""

    n: int = 0
    sum: int = 0
    square_sum: int = 0

    @classmethod
    def of(cls, rewards: Sequence[int]) -> "RewardSums":
        """Of single rewards in nanos."""
        return cls(len(rewards), sum(rewards), sum(one * one for one in rewards))

    def __add__(self, other: "RewardSums") -> "RewardSums":
        return RewardSums(self.n + other.n, self.sum + other.sum, self.square_sum + other.square_sum)

    def __sub__(self, other: "RewardSums") -> "RewardSums":
        return RewardSums(self.n - other.n, self.sum - other.sum, self.square_sum - other.square_sum)

    def to_bytes(self) -> bytes:
        """Little-endian: 64 bits of the number, 128 of each sum."""
        sums = (value.to_bytes(16, "little", signed=True) for value in (self.sum, self.square_sum))
        return _REWARD_SUMS.pack(self.n, *sums)

    @classmethod
    def from_bytes(cls, body: bytes) -> "RewardSums":
        """The inverse of `to_bytes`. Raises ValueError if these are no sums."""
        if len(body) != _REWARD_SUMS.size:
            raise ValueError(f"{len(body)} bytes are no sums of rewards")
        n, *sums = _REWARD_SUMS.unpack(body)
        return cls(n, *(int.from_bytes(value, "little", signed=True) for value in sums))


PolicyTotals = LinearTotals | LogisticTotals | LossSums | RewardSums


class Seen(NamedTuple):
    """What the log knows of an assignment besides its reward; the time in microseconds since the epoch."""

    context: Mapping[str, Any] | None
    propensity: float
    assigned_us: int


class Rows(NamedTuple):
    """What is learned from each of some rewards, as `Learning.row` gives it, and the rewards in nanos."""

    given: list[Any]
    rewards: list[int]


class ContextLearning(NamedTuple):
    """Contexts and rewards, for a linear or a logistic model."""

    model: Literal["linear", "logistic"]
    schema: Schema

    @property
    def empty(self) -> PolicyTotals:
        """The totals of no rewards."""
        return self._kind.empty(self.schema.d)

    def part(self, _seen: Seen) -> str:
        """There is only one."""
        return ""

    def row(self, seen: Seen) -> NDArray[np.int64] | None:
        """The context in fixed point; None: it does not fit."""
        try:
            return self.schema.vector_fixed(seen.context or {})
        except ContextError:
            return None

    def of_rows(self, rows: Rows) -> PolicyTotals:
        """The totals of some rewards."""
        contexts = np.array(rows.given, np.int64).reshape(-1, self.schema.d)
        return self._kind.of_rows(contexts, np.array(rows.rewards, np.float64) / NANO)

    def decode(self, body: bytes) -> PolicyTotals:
        """The inverse of `to_bytes`. Raises ValueError if these are no totals."""
        return self._kind.from_bytes(body)

    @property
    def _kind(self) -> type[LinearTotals] | type[LogisticTotals]:
        return LinearTotals if self.model == "linear" else LogisticTotals


class LossLearning(NamedTuple):
    """Losses by their propensity: (1 - reward) / (propensity + gamma), rounded to a nano one by one."""

    gamma: float
    empty: PolicyTotals = LossSums()

    def part(self, _seen: Seen) -> str:
        """There is only one."""
        return ""

    def row(self, seen: Seen) -> float:
        """The propensity."""
        return seen.propensity

    def of_rows(self, rows: Rows) -> PolicyTotals:
        """The totals of some rewards."""
        left = NANO - np.array(rows.rewards, np.float64)
        losses = np.rint(left / (np.array(rows.given, np.float64) + self.gamma)).tolist()
        return LossSums(len(losses), sum(map(int, losses)))

    def decode(self, body: bytes) -> PolicyTotals:
        """The inverse of `to_bytes`. Raises ValueError if these are no totals."""
        return LossSums.from_bytes(body)


class BucketLearning(NamedTuple):
    """Rewards by the time of their assignment, in buckets of whole seconds that begin with the Unix epoch."""

    bucket_s: int
    empty: PolicyTotals = RewardSums()

    def part(self, seen: Seen) -> str:
        """The bucket of the assignment."""
        return part_of_bucket(seen.assigned_us // 1_000_000 // self.bucket_s * self.bucket_s)

    def first_part(self, now_s: float) -> str:
        """The oldest part that is kept at `now_s`, in seconds since the Unix epoch.

        No policy with these buckets reads an older one, even if its clock is behind by as much as it reads.
        """
        newest = int(now_s) // self.bucket_s
        return part_of_bucket((newest - limits.FORGETTING_BUCKETS_KEPT + 1) * self.bucket_s)

    def row(self, seen: Seen) -> int:
        """The time, of which nothing but the part is learned."""
        return seen.assigned_us

    def of_rows(self, rows: Rows) -> PolicyTotals:
        """The totals of some rewards."""
        return RewardSums.of(rows.rewards)

    def decode(self, body: bytes) -> PolicyTotals:
        """The inverse of `to_bytes`. Raises ValueError if these are no totals."""
        return RewardSums.from_bytes(body)


class SegmentLearning(NamedTuple):
    """Rewards by the segment of their context."""

    by: tuple[Segments, ...]
    empty: PolicyTotals = RewardSums()

    def part(self, seen: Seen) -> str:
        """The segment of the context."""
        return part_of_segment(segment_number(self.by, seen.context or {}))

    def row(self, _seen: Seen) -> Literal[True]:
        """Nothing but the part is learned of a context."""
        return True

    def of_rows(self, rows: Rows) -> PolicyTotals:
        """The totals of some rewards."""
        return RewardSums.of(rows.rewards)

    def decode(self, body: bytes) -> PolicyTotals:
        """The inverse of `to_bytes`. Raises ValueError if these are no totals."""
        return RewardSums.from_bytes(body)


def part_of_segment(number: int) -> str:
    """The name of a segment among the parts."""
    return f"{number:03d}"


def part_of_bucket(start_s: int) -> str:
    """The name of the bucket that begins at `start_s` after the Unix epoch: their order is that of time."""
    return f"{max(start_s, 0):012d}"


Learning = ContextLearning | LossLearning | SegmentLearning | BucketLearning
"""What the policy of an epoch learns. Epochs whose policies learn the same are read as one sample."""


def is_forgotten(learning: Learning, part: str, now_s: float) -> bool:
    """Whether no policy can read the part any more: it is deleted some time, and says nothing until then."""
    return isinstance(learning, BucketLearning) and part < learning.first_part(now_s)


def plus(first: PolicyTotals, second: PolicyTotals) -> PolicyTotals:
    """Both together, of the same learning."""
    return first + second  # type: ignore[operator]


def agree(learning: Learning, fresh: PolicyTotals, body: bytes) -> bool:
    """Whether what is stored is of the same rewards; without bytes it is of none.

    Cells of logistic totals that once held more contexts stay as wide as they had to be for those.
    """
    try:
        stored = learning.decode(body) if body else learning.empty
    except ValueError:
        return False
    if isinstance(fresh, LogisticTotals) and isinstance(stored, LogisticTotals):
        none = LogisticTotals.empty(fresh.d)
        fresh += LogisticTotals(none.linear, stored.level, none.cells, none.n, none.sums)
    return fresh == stored


Key = tuple[int, int, int, str]
"""Experiment, epoch, variant and part."""


class Change(NamedTuple):
    """What policy totals gain and lose."""

    learning: Learning
    added: PolicyTotals
    removed: PolicyTotals

    def applied(self, body: bytes) -> bytes:
        """Stored totals after the change; empty ones have no bytes. Raises ValueError if they cannot be.

        What is added comes first: where a reward was revised its context is then known already, and the cells
        of logistic totals need not become wider.
        """
        totals = self.learning.decode(body) if body else self.learning.empty
        return (totals + self.added - self.removed).to_bytes()  # type: ignore[operator]


def learning_of(policy: Policy) -> Learning | None:
    """What a policy learns besides the reward totals, if anything."""
    match policy.learns:
        case Contexts(model, features):
            return ContextLearning(model, Schema(features))
        case Losses(gamma):
            return LossLearning(gamma)
        case BySegment(by):
            return SegmentLearning(by)
        case ByTime(bucket_s):
            return BucketLearning(bucket_s)
        case None:
            return None
        case learns:
            assert_never(learns)


def moved(before: Assignments, after: Assignments, learning: Iterable[tuple[int, int]]) -> NDArray[np.intp]:
    """Which assignments, by their number, change what policies learn: in the experiments and epochs given."""
    changed = np.flatnonzero(_rewards(before, before["counted"]) != _rewards(after, after["exposed"]))
    wanted = set(learning)
    pairs = zip(after["experiment_id"][changed].tolist(), after["epoch"][changed].tolist(), strict=True)
    return changed[np.array([pair in wanted for pair in pairs], np.bool_)]


def changes(
    before: Assignments,
    after: Assignments,
    found: Iterable[tuple[int, Mapping[str, Any] | None, float]],
    learning: Mapping[tuple[int, int], Learning],
) -> tuple[dict[Key, Change], int]:
    """What assignments change, in key order; and how many contexts did not fit.

    Of each assignment `found` has its number, context and propensity.
    """
    old, new = _rewards(before, before["counted"]).tolist(), _rewards(after, after["exposed"]).tolist()
    added: defaultdict[Key, Rows] = defaultdict(lambda: Rows([], []))
    removed: defaultdict[Key, Rows] = defaultdict(lambda: Rows([], []))
    misfits = 0
    for number, context, propensity in found:
        row = after[number]
        pair = int(row["experiment_id"]), int(row["epoch"])
        seen = Seen(context, propensity, int(row["assigned_us"]))
        key = *pair, int(row["variant"]), learning[pair].part(seen)
        x = learning[pair].row(seen)
        if x is None:
            misfits += 1
            continue
        for rows, reward in ((added, new[number]), (removed, old[number])):
            if reward != NONE:
                rows[key].given.append(x)
                rows[key].rewards.append(reward)
    made = {}
    for key in sorted({*added, *removed}):
        of = learning[key[:2]]
        made[key] = Change(of, of.of_rows(added[key]), of.of_rows(removed[key]))
    return made, misfits


def _rewards(assignments: Assignments, counted: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(counted & assignments["exposed"], assignments["reward"], NONE).astype(np.int64)
