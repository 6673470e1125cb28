"""Sums that policies learn beyond the reward totals: over contexts, losses, segments or times. Pure.

They move by the difference when a reward changes. They are whole numbers, so they depend on the set of
rewards, never on their order. A context that does not fit the policy's features adds nothing.
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
from app.ledger.rewards.composite import NANO
from app.ledger.rewards.model import NONE, Assignments
from bandits.features import ContextError, Schema
from bandits.linear import LinearTotals
from bandits.logistic import LogisticTotals

LEARNING_KINDS: Final = tuple(kind for kind, rule in KINDS.items() if rule.reads in {"contexts", "losses"})
"""Kinds of policies that learn more than the reward totals; others do if they have `forgetting`."""

_LOSS_SUMS: Final = Struct("<q16s")
_REWARD_SUMS: Final = Struct("<q16s16s")


class LossSums(msgspec.Struct, frozen=True):
    """Number of a variant's rewards, and the sum of their importance-weighted losses in nanos."""

    n: int = 0
    losses: int = 0

    def __add__(self, other: "LossSums") -> "LossSums":
        return LossSums(self.n + other.n, self.losses + other.losses)

    def __sub__(self, other: "LossSums") -> "LossSums":
        return LossSums(self.n - other.n, self.losses - other.losses)

    def to_bytes(self) -> bytes:
        """Encode as little-endian: 64 bits of the number, 128 of the sum."""
        return _LOSS_SUMS.pack(self.n, self.losses.to_bytes(16, "little", signed=True))

    @classmethod
    def from_bytes(cls, body: bytes) -> "LossSums":
        """Decode the bytes of `to_bytes`. Raises ValueError if they have another length."""
        if len(body) != _LOSS_SUMS.size:
            raise ValueError(f"sums of losses must have {_LOSS_SUMS.size} bytes; got {len(body)}")
        n, losses = _LOSS_SUMS.unpack(body)
        return cls(n, int.from_bytes(losses, "little", signed=True))


class RewardSums(msgspec.Struct, frozen=True):
    """Number of a variant's rewards in a part, their sum in nanos, and the sum of their squares."""

    n: int = 0
    sum: int = 0
    square_sum: int = 0

    @classmethod
    def of(cls, rewards: Sequence[int]) -> "RewardSums":
        """Return the sums of single rewards in nanos."""
        return cls(len(rewards), sum(rewards), sum(reward * reward for reward in rewards))

    def __add__(self, other: "RewardSums") -> "RewardSums":
        return RewardSums(self.n + other.n, self.sum + other.sum, self.square_sum + other.square_sum)

    def __sub__(self, other: "RewardSums") -> "RewardSums":
        return RewardSums(self.n - other.n, self.sum - other.sum, self.square_sum - other.square_sum)

    def to_bytes(self) -> bytes:
        """Encode as little-endian: 64 bits of the number, 128 of each sum."""
        sums = (value.to_bytes(16, "little", signed=True) for value in (self.sum, self.square_sum))
        return _REWARD_SUMS.pack(self.n, *sums)

    @classmethod
    def from_bytes(cls, body: bytes) -> "RewardSums":
        """Decode the bytes of `to_bytes`. Raises ValueError if they have another length."""
        if len(body) != _REWARD_SUMS.size:
            raise ValueError(f"sums of rewards must have {_REWARD_SUMS.size} bytes; got {len(body)}")
        n, *sums = _REWARD_SUMS.unpack(body)
        return cls(n, *(int.from_bytes(value, "little", signed=True) for value in sums))


PolicyTotals = LinearTotals | LogisticTotals | LossSums | RewardSums


class Seen(NamedTuple):
    """Columns of a logged assignment that learning reads; the time in microseconds since the epoch."""

    context: Mapping[str, Any] | None
    propensity: float
    assigned_us: int


class Rows(NamedTuple):
    """Rows that `Learning.row` returned for some rewards, and these rewards in nanos."""

    given: list[Any]
    rewards: list[int]


class ContextLearning(NamedTuple):
    """Contexts and rewards, for a linear or a logistic model."""

    model: Literal["linear", "logistic"]
    schema: Schema

    @property
    def empty(self) -> PolicyTotals:
        """Totals of no rewards."""
        return self._kind.empty(self.schema.d)

    def part(self, _seen: Seen) -> str:
        """Return the only part."""
        return ""

    def row(self, seen: Seen) -> NDArray[np.int64] | None:
        """Return the context in fixed point; None if it does not fit the features."""
        try:
            return self.schema.vector_fixed(seen.context or {})
        except ContextError:
            return None

    def of_rows(self, rows: Rows) -> PolicyTotals:
        """Return the totals of some rewards."""
        contexts = np.array(rows.given, np.int64).reshape(-1, self.schema.d)
        return self._kind.of_rows(contexts, np.array(rows.rewards, np.float64) / NANO)

    def decode(self, body: bytes) -> PolicyTotals:
        """Decode the bytes of `to_bytes`. Raises ValueError if they cannot be decoded."""
        return self._kind.from_bytes(body)

    @property
    def _kind(self) -> type[LinearTotals] | type[LogisticTotals]:
        return LinearTotals if self.model == "linear" else LogisticTotals


class LossLearning(NamedTuple):
    """Importance-weighted losses (1 - reward) / (propensity + gamma), each rounded to a nano."""

    gamma: float
    empty: PolicyTotals = LossSums()

    def part(self, _seen: Seen) -> str:
        """Return the only part."""
        return ""

    def row(self, seen: Seen) -> float:
        """Return the propensity."""
        return seen.propensity

    def of_rows(self, rows: Rows) -> PolicyTotals:
        """Return the totals of some rewards."""
        shortfalls = NANO - np.array(rows.rewards, np.float64)
        losses = np.rint(shortfalls / (np.array(rows.given, np.float64) + self.gamma)).tolist()
        return LossSums(len(losses), sum(map(int, losses)))

    def decode(self, body: bytes) -> PolicyTotals:
        """Decode the bytes of `to_bytes`. Raises ValueError if they cannot be decoded."""
        return LossSums.from_bytes(body)


class _RewardLearning(msgspec.Struct, frozen=True):
    """Learning whose totals are the rewards of each part."""

    @property
    def empty(self) -> PolicyTotals:
        """Totals of no rewards."""
        return RewardSums()

    def row(self, _seen: Seen) -> Literal[True]:
        """Return a placeholder: only the part of a context is learned."""
        return True

    def of_rows(self, rows: Rows) -> PolicyTotals:
        """Return the totals of some rewards."""
        return RewardSums.of(rows.rewards)

    def decode(self, body: bytes) -> PolicyTotals:
        """Decode the bytes of `to_bytes`. Raises ValueError if they cannot be decoded."""
        return RewardSums.from_bytes(body)


class BucketLearning(_RewardLearning, frozen=True):
    """Rewards by the time of their assignment, in buckets of whole seconds from the Unix epoch on."""

    bucket_s: int

    def part(self, seen: Seen) -> str:
        """Return the bucket of the assignment."""
        return part_of_bucket(seen.assigned_us // 1_000_000 // self.bucket_s * self.bucket_s)

    def first_part(self, now_s: float) -> str:
        """Return the oldest part that is kept at `now_s`, in seconds since the Unix epoch.

        No policy with these buckets reads an older part, even if its clock is behind by as much as it
        reads.
        """
        newest = int(now_s) // self.bucket_s
        return part_of_bucket((newest - limits.FORGETTING_BUCKETS_KEPT + 1) * self.bucket_s)


class SegmentLearning(_RewardLearning, frozen=True):
    """Rewards by the segment of their context."""

    by: tuple[Segments, ...]

    def part(self, seen: Seen) -> str:
        """Return the segment of the context."""
        return part_of_segment(segment_number(self.by, seen.context or {}))


def part_of_segment(number: int) -> str:
    """Return the name of a segment among the parts."""
    return f"{number:03d}"


def part_of_bucket(start_s: int) -> str:
    """Return the name of the bucket that begins at `start_s` after the Unix epoch; names sort by time."""
    return f"{max(start_s, 0):012d}"


Learning = ContextLearning | LossLearning | SegmentLearning | BucketLearning
"""What the policy of an epoch learns. Epochs with equal learning are read as one sample."""


def is_forgotten(learning: Learning, part: str, now_s: float) -> bool:
    """Return whether no policy can read the part any more. It is ignored until it is deleted."""
    return isinstance(learning, BucketLearning) and part < learning.first_part(now_s)


def plus(first: PolicyTotals, second: PolicyTotals) -> PolicyTotals:
    """Add totals of the same learning."""
    return first + second  # type: ignore[operator]


def agree(learning: Learning, fresh: PolicyTotals, body: bytes) -> bool:
    """Return whether stored totals are of the same rewards; no bytes mean no rewards.

    Cells of logistic totals stay as wide as they once had to be, even if they hold fewer contexts now.
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
    """Amounts that policy totals gain and lose."""

    learning: Learning
    added: PolicyTotals
    removed: PolicyTotals

    def applied(self, body: bytes) -> bytes:
        """Return stored totals after the change; empty totals have no bytes.

        Addition comes first: the context of a revised reward is then known already, and the cells of
        logistic totals need not become wider. Raises ValueError if the change cannot be applied.
        """
        totals = self.learning.decode(body) if body else self.learning.empty
        return (totals + self.added - self.removed).to_bytes()  # type: ignore[operator]


def learning_of(policy: Policy) -> Learning | None:
    """Return what a policy learns beyond the reward totals, if anything."""
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
    """Return the numbers of assignments that change what the policies of these epochs learn."""
    changed = np.flatnonzero(_rewards(before, before["counted"]) != _rewards(after, after["exposed"]))
    wanted = set(learning)
    pairs = zip(after["experiment_id"][changed].tolist(), after["epoch"][changed].tolist(), strict=True)
    return changed[np.array([pair in wanted for pair in pairs], np.bool_)]


def changes(
    before: Assignments,
    after: Assignments,
    contexts: Iterable[tuple[int, Mapping[str, Any] | None, float]],
    learning: Mapping[tuple[int, int], Learning],
) -> tuple[dict[Key, Change], int]:
    """Return the changes of assignments in key order, and the number of contexts that did not fit.

    `contexts` has the number, context and propensity of each assignment.
    """
    old, new = _rewards(before, before["counted"]).tolist(), _rewards(after, after["exposed"]).tolist()
    added: defaultdict[Key, Rows] = defaultdict(lambda: Rows([], []))
    removed: defaultdict[Key, Rows] = defaultdict(lambda: Rows([], []))
    misfits = 0
    for number, context, propensity in contexts:
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
    changed = {}
    for key in sorted({*added, *removed}):
        learned = learning[key[:2]]
        changed[key] = Change(learned, learned.of_rows(added[key]), learned.of_rows(removed[key]))
    return changed, misfits


def _rewards(assignments: Assignments, counted: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(counted & assignments["exposed"], assignments["reward"], NONE).astype(np.int64)
