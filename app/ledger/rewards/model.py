"""The arithmetic of rewards: signals become rewards, and rewards become differences of totals. Pure.

A reward is a function of the set of an assignment's signals, never of their order. Values become whole
billionths ("nano") of the width of the reward's range before they are combined. Sums of whole numbers
are exact, so totals do not depend on the order of events either.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.experiments.reward import Reward
from app.experiments.signals import SignalUse
from app.feedback.limits import CLOCK_TOLERANCE_US
from app.ledger.rewards.composite import NANO, Composing, Score, composed, scores_of

NONE: Final = -1
"""Value for a reward that is null."""

PENDING, REWARDED, SILENT, CENSORED = range(4)
"""Outcomes, as in the table of assignments."""

ASSIGNMENT: Final = np.dtype(
    [
        ("place", "V6"),  # where PostgreSQL stores it
        ("experiment_id", "i4"),
        ("unit_hash", "i8"),
        ("id", "S16"),  # S compares fast; it drops zeros at the end, which 16 bytes imply
        ("assigned_us", "i8"),
        ("deadline_us", "i8"),
        ("epoch", "i4"),
        ("variant", "i2"),
        ("propensity", "f8"),
        ("exposed", "?"),
        ("outcome", "i2"),
        ("reward", "i4"),
        ("counted", "?"),  # false: it is not in the totals yet
    ]
)
"""A stored, locked assignment."""

GIVEN: Final = np.dtype([("owner", "i8"), ("name", "i8"), ("source", "i2"), ("at_us", "i8"), ("value", "f8")])
"""A signal about the assignment at index `owner`; `name` is an index as well."""

Assignments = NDArray[np.void]
Integers = NDArray[np.int64]

_VARIANTS: Final = 256
_SOURCES: Final = 4
FITTING: Final = 2.0**62
"""Numbers whose absolute values, added as floats, stay below this bound have sums of 64 bits."""


class Given(NamedTuple):
    """Signals as elements of GIVEN, and the names that they refer to."""

    signals: NDArray[np.void]
    names: Sequence[str]

    def about(self, places: Integers) -> "Given":
        """Return the signals about the assignments at these places, which become indices into `places`."""
        index = np.full(max(self.signals["owner"].max(initial=0), places.max(initial=0)) + 1, NONE)
        index[places] = np.arange(len(places))
        kept = self.signals[index[self.signals["owner"]] != NONE]
        kept["owner"] = index[kept["owner"]]
        return Given(kept, self.names)


def undoubled(signals: NDArray[np.void], derived: NDArray[np.bool_]) -> NDArray[np.void]:
    """Return the elements of GIVEN without `derived` signals that a client sent itself as well.

    A signal that Wald derives from a response gives way to the client's signals of the same name
    about the same assignment, whichever came first.
    """
    if not derived.any() or derived.all():
        return signals
    pairs = signals["owner"] * (signals["name"].max() + 1) + signals["name"]
    return signals[~derived | ~np.isin(pairs, pairs[~derived])]


class Rule(NamedTuple):
    """Rule that turns the signals of an assignment into its reward; `lowest` and `silence` in nanos."""

    catalogue: frozenset[str]
    combine: str
    width: float
    lowest: int
    silence: int
    horizon_us: int
    by_unit: bool
    """Whether signals by unit have been logged."""
    learns: bool
    """Whether the policy of some epoch learns more than the totals."""
    signals: Mapping[str, SignalUse] = MappingProxyType({})
    """Signals that the reward or a metric reads."""
    scores: Mapping[str, Score] = MappingProxyType({})
    """How each signal of a composite reward is scored; empty for any other reward."""
    required: frozenset[str] = frozenset()
    """Signals without which there is no reward."""

    @property
    def waits(self) -> bool:
        """Whether an assignment may have signals that count, and yet no reward."""
        return bool(self.required)

    @classmethod
    def of(
        cls,
        reward: Reward,
        *,
        by_unit: bool,
        learns: bool = False,
        signals: Mapping[str, SignalUse] = MappingProxyType({}),
    ) -> "Rule":
        """Return the rule of a definition."""
        low, high = reward.range
        width = high - low
        return cls(
            catalogue=frozenset(reward.signals),
            combine=reward.combine,
            width=width,
            lowest=round(low * NANO / width),
            silence=NONE if reward.silence is None else round(reward.silence * NANO),
            horizon_us=round(reward.horizon_s * 1e6),
            by_unit=by_unit,
            learns=learns,
            signals=signals,
            scores=scores_of(reward) if reward.is_composite else {},
            required=frozenset(reward.required),
        )


class Difference(NamedTuple):
    """Amounts to add to the totals of one variant in one epoch. Sums in nanos and nanos squared."""

    experiment_id: int
    epoch: int
    variant: int
    assignments: int
    rewards: int
    censored: int
    reward_sum: int
    reward_square_sum: int


def resolve(
    assignments: Assignments, given: Given, rules: Mapping[int, Rule], *, silent_until_us: float
) -> Assignments:
    """Return the assignments with the outcome and reward that all `given` signals about them determine.

    An assignment without a counting signal is silent if its deadline is not after `silent_until_us`.
    Silence that was resolved before stays resolved. `rules` are by experiment.
    """
    resolved = assignments.copy()
    experiments, rule_of = np.unique(assignments["experiment_id"], return_inverse=True)
    ordered = [rules[experiment] for experiment in experiments.tolist()]
    silence = np.array([rule.silence for rule in ordered], np.int64)[rule_of]
    was_silent = np.isin(assignments["outcome"], (SILENT, CENSORED))
    silent = was_silent | (assignments["deadline_us"] <= silent_until_us)
    resolved["outcome"] = np.where(silent, np.where(silence == NONE, CENSORED, SILENT), PENDING)
    resolved["reward"] = np.where(silent, silence, NONE)

    current = _current(assignments, given, ordered, rule_of)
    if any(rule.required for rule in ordered):
        current = _complete(current, given.names, ordered, rule_of)
    if any(rule.scores for rule in ordered):
        composite = np.array([bool(rule.scores) for rule in ordered])[rule_of[current["owner"]]]
        owners, rewards = composed(_composing(current[composite], given.names, ordered, rule_of))
        resolved["outcome"][owners], resolved["reward"][owners] = REWARDED, rewards
        current = current[~composite]
    owners, amounts = _combined(current, ordered, rule_of)
    lowest = np.array([rule.lowest for rule in ordered], np.int64)[rule_of[owners]]
    resolved["outcome"][owners] = REWARDED
    resolved["reward"][owners] = np.clip(amounts - lowest, 0, NANO).astype(np.int64)
    return resolved


def newest(assignments: Assignments, signals: NDArray[np.void]) -> NDArray[np.void]:
    """Return the newest signal in time of each assignment, name and source, in the order of owners.

    A signal is in time if it is neither late nor early.
    """
    owners, at_us = signals["owner"], signals["at_us"]
    in_time = at_us <= assignments["deadline_us"][owners]
    in_time &= at_us >= assignments["assigned_us"][owners] - CLOCK_TOLERANCE_US
    signals = signals[in_time]
    kind = signals["name"] * _SOURCES + signals["source"]
    order = np.lexsort((signals["value"], signals["at_us"], kind, signals["owner"]))
    signals, kind = signals[order], kind[order]
    last = np.ones(len(signals), np.bool_)
    last[:-1] = (signals["owner"][1:] != signals["owner"][:-1]) | (kind[1:] != kind[:-1])
    kept: NDArray[np.void] = signals[last]
    return kept


def differences(before: Assignments, after: Assignments) -> list[Difference]:
    """Return the differences of totals between the assignments `before` and `after`, in key order.

    Only exposed assignments count; `counted` of `before` marks those that are in the totals already.
    """
    before, after = before[after["exposed"]], after[after["exposed"]]
    experiments, experiment = np.unique(after["experiment_id"], return_inverse=True)
    epochs, epoch = np.unique(after["epoch"], return_inverse=True)
    code = (experiment * len(epochs) + epoch) * _VARIANTS + after["variant"]
    codes, group = np.unique(code, return_inverse=True)

    def added(amounts: NDArray[Any]) -> list[int]:
        """Add numbers below 2**31 by group, which binary64 does exactly."""
        return [int(total) for total in np.bincount(group, amounts, minlength=len(codes)).tolist()]

    counted = before["counted"]
    old, new = np.where(counted, before["reward"], NONE), after["reward"].astype(np.int64)
    old_sums, new_sums = (_sums(added, rewards) for rewards in (old, new))
    censored = (after["outcome"] == CENSORED) * 1 - ((before["outcome"] == CENSORED) & counted)
    columns = [
        added(~counted),
        added((new != NONE) * 1 - (old != NONE)),
        added(censored),
        *(
            [new_sum - old_sum for new_sum, old_sum in zip(*pair, strict=True)]
            for pair in zip(new_sums, old_sums, strict=True)
        ),
    ]
    keys = [
        (
            int(experiments[number // _VARIANTS // len(epochs)]),
            int(epochs[number // _VARIANTS % len(epochs)]),
            number % _VARIANTS,
        )
        for number in codes.tolist()
    ]
    by_key = (Difference(*key, *sums) for key, *sums in zip(keys, *columns, strict=True))
    return [difference for difference in by_key if any(difference[3:])]


def _sums(added: Callable[[NDArray[Any]], list[int]], rewards: Integers) -> tuple[list[int], list[int]]:
    """Add rewards and their squares by group. A square has 60 bits, so its halves are added separately."""
    present = np.where(rewards == NONE, 0, rewards)
    high, low = present >> 15, present & 0x7FFF
    squares = zip(added(high * high), added(high * low), added(low * low), strict=True)
    return added(present), [(a << 30) + (b << 16) + c for a, b, c in squares]


def _pairs(
    signals: NDArray[np.void], names: Sequence[str], ordered: Sequence[Rule], rule_of: Integers
) -> tuple[list[tuple[Rule, str]], Integers]:
    """Return the distinct pairs of rule and name of some signals, and the pair of each signal."""
    code = rule_of[signals["owner"]] * len(names) + signals["name"]
    pairs, pair_of = np.unique(code, return_inverse=True)
    return [(ordered[pair // len(names)], names[pair % len(names)]) for pair in pairs.tolist()], pair_of


def _current(
    assignments: Assignments, given: Given, ordered: Sequence[Rule], rule_of: Integers
) -> NDArray[np.void]:
    """Return the newest counting signal of each assignment, name and source, in the order of owners."""
    pairs, pair_of = _pairs(given.signals, given.names, ordered, rule_of)
    counts = np.array([name in rule.catalogue for rule, name in pairs], np.bool_)
    return newest(assignments, given.signals[counts[pair_of]])


def _complete(
    current: NDArray[np.void], names: Sequence[str], ordered: Sequence[Rule], rule_of: Integers
) -> NDArray[np.void]:
    """Return the signals of the assignments that have all signals which their rule requires."""
    if not len(current):
        return current
    pairs, pair_of = _pairs(current, names, ordered, rule_of)
    needed = np.array([name in rule.required for rule, name in pairs])[pair_of]
    # Rows of one owner and name are adjacent; several sources of a name count once.
    needed[1:] &= (current["owner"][1:] != current["owner"][:-1]) | (pair_of[1:] != pair_of[:-1])
    owners, starts, owner_of = np.unique(current["owner"], return_index=True, return_inverse=True)
    n_required = np.array([len(rule.required) for rule in ordered])[rule_of[owners]]
    complete = np.add.reduceat(needed.astype(np.int64), starts) == n_required
    kept: NDArray[np.void] = current[complete[owner_of]]
    return kept


def _composing(
    current: NDArray[np.void], names: Sequence[str], ordered: Sequence[Rule], rule_of: Integers
) -> Composing:
    """Return the signals of composite rewards with the score of each pair of rule and name."""
    pairs, pair_of = _pairs(current, names, ordered, rule_of)
    scores = [rule.scores[name] for rule, name in pairs]
    combine = np.array([rule.combine for rule in ordered])[rule_of]
    return Composing(current["owner"], current["at_us"], current["value"], pair_of, scores, combine)


def _combined(
    current: NDArray[np.void], ordered: Sequence[Rule], rule_of: Integers
) -> tuple[Integers, NDArray[Any]]:
    """Return the assignments that have signals, and the combined amount of each."""
    owners, starts = np.unique(current["owner"], return_index=True)
    if not len(owners):
        return owners, np.empty(0, np.int64)
    width = np.array([rule.width for rule in ordered])[rule_of[current["owner"]]]
    amounts = whole(np.rint(current["value"] * NANO / width))
    combine = np.array([rule.combine for rule in ordered])[rule_of[owners]]
    by_time = np.lexsort((current["value"], current["at_us"], current["owner"]))
    ends = np.append(starts[1:], len(current)) - 1
    combined = amounts[by_time[ends]]
    for kind, sums in (("sum", np.add), ("max", np.maximum)):
        if (combine == kind).any():
            combined = np.where(combine == kind, sums.reduceat(amounts, starts), combined)
    return owners, combined


def whole(amounts: NDArray[np.float64]) -> NDArray[Any]:
    """Convert to whole numbers with exact sums: of 64 bits, or Python integers where they may not fit."""
    if np.abs(amounts).sum() < FITTING:
        return amounts.astype(np.int64)
    return np.array([int(amount) for amount in amounts.tolist()], object)
