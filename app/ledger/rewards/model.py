"""The reward ledger's arithmetic: from signals to rewards, and from rewards to differences of totals. Pure.

A reward is a function of the set of an assignment's signals, never of their order. Values become whole
billionths ("nano") of the width of the reward's range before they are combined, and sums of whole numbers are
exact: totals do not depend on the order of events either.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.experiments.model import Reward
from app.experiments.signals import SignalUse
from app.feedback.limits import CLOCK_TOLERANCE_US

NANO: Final = 1_000_000_000
NONE: Final = -1
"""Stands for a reward that is null."""

PENDING, REWARDED, SILENT, CENSORED = range(4)
"""Outcomes, as in the table of assignments."""

ASSIGNMENT: Final = np.dtype(
    [
        ("place", "V6"),  # where PostgreSQL stores it
        ("experiment_id", "i4"),
        ("unit_hash", "i8"),
        (
            "id",
            "S16",
        ),  # S, whose comparisons are fast; the zeros that it drops at the end are no loss in 16 bytes
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
"""An assignment as stored, and locked."""

GIVEN: Final = np.dtype([("owner", "i8"), ("name", "i8"), ("source", "i2"), ("at_us", "i8"), ("value", "f8")])
"""A signal about the assignment with index `owner`; `name` is an index too."""

Assignments = NDArray[np.void]
Integers = NDArray[np.int64]

_VARIANTS: Final = 256
_SOURCES: Final = 4
FITTING: Final = 2.0**62
"""Numbers whose sizes, added up as floats, stay below this have sums of 64 bits."""


class Given(NamedTuple):
    """Signals as elements of GIVEN, and the names they refer to."""

    signals: NDArray[np.void]
    names: Sequence[str]

    def about(self, places: Integers) -> "Given":
        """Those about the assignments at these places, by their index among these."""
        index = np.full(max(self.signals["owner"].max(initial=0), places.max(initial=0)) + 1, NONE)
        index[places] = np.arange(len(places))
        kept = self.signals[index[self.signals["owner"]] != NONE]
        kept["owner"] = index[kept["owner"]]
        return Given(kept, self.names)


class Rule(NamedTuple):
    """How the signals of an assignment become its reward; `lowest` and `silence` in nanos."""

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
    """Those that the reward or a metric reads."""

    @classmethod
    def of(
        cls,
        reward: Reward,
        *,
        by_unit: bool,
        learns: bool = False,
        signals: Mapping[str, SignalUse] = MappingProxyType({}),
    ) -> "Rule":
        """What the definition says."""
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
        )


class Difference(NamedTuple):
    """What is to be added to the totals of one variant in one epoch. Sums in nanos and nanos squared."""

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
    """The same assignments with outcome and reward as all the signals `given` about them say.

    An assignment without signals that count is silent when its deadline is not after `silent_until_us`;
    silence that was resolved before stays so. `rules` by experiment.
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
    owners, amounts = _combined(current, ordered, rule_of)
    lowest = np.array([rule.lowest for rule in ordered], np.int64)[rule_of[owners]]
    resolved["outcome"][owners] = REWARDED
    resolved["reward"][owners] = np.clip(amounts - lowest, 0, NANO).astype(np.int64)
    return resolved


def newest(assignments: Assignments, signals: NDArray[np.void]) -> NDArray[np.void]:
    """Of the signals in time the newest of each assignment, name and source, in the order of owners.

    In time is what is neither late nor early.
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
    """What totals have to change by when assignments stored as `before` are as `after`, in key order.

    Only exposed assignments count; `counted` of `before` says which are in the totals already.
    """
    before, after = before[after["exposed"]], after[after["exposed"]]
    experiments, experiment = np.unique(after["experiment_id"], return_inverse=True)
    epochs, epoch = np.unique(after["epoch"], return_inverse=True)
    code = (experiment * len(epochs) + epoch) * _VARIANTS + after["variant"]
    codes, group = np.unique(code, return_inverse=True)

    def added(amounts: NDArray[Any]) -> list[int]:
        """Sums by group: of numbers below 2**31, so that binary64 holds them exactly."""
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
            [now - then for now, then in zip(*pair, strict=True)]
            for pair in zip(new_sums, old_sums, strict=True)
        ),
    ]
    keys = [
        (
            int(experiments[one // _VARIANTS // len(epochs)]),
            int(epochs[one // _VARIANTS % len(epochs)]),
            one % _VARIANTS,
        )
        for one in codes.tolist()
    ]
    found = (Difference(*key, *sums) for key, *sums in zip(keys, *columns, strict=True))
    return [one for one in found if any(one[3:])]


def _sums(added: Callable[[NDArray[Any]], list[int]], rewards: Integers) -> tuple[list[int], list[int]]:
    """Sums of rewards and of their squares. A square has 60 bits: its halves are summed apart."""
    present = np.where(rewards == NONE, 0, rewards)
    high, low = present >> 15, present & 0x7FFF
    squares = zip(added(high * high), added(high * low), added(low * low), strict=True)
    return added(present), [(a << 30) + (b << 16) + c for a, b, c in squares]


def _current(
    assignments: Assignments, given: Given, ordered: Sequence[Rule], rule_of: Integers
) -> NDArray[np.void]:
    """The newest of the signals that count of each assignment, name and source; in the order of owners."""
    signals, n_names = given.signals, len(given.names)
    pairs, pair_of = np.unique(rule_of[signals["owner"]] * n_names + signals["name"], return_inverse=True)
    counts = [given.names[pair % n_names] in ordered[pair // n_names].catalogue for pair in pairs.tolist()]
    return newest(assignments, signals[np.array(counts, np.bool_)[pair_of]])


def _combined(
    current: NDArray[np.void], ordered: Sequence[Rule], rule_of: Integers
) -> tuple[Integers, NDArray[Any]]:
    """The assignments that have signals, and the amount that those of each combine to."""
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
    """Whole numbers whose sums are exact: of 64 bits, or without a bound where they may not fit."""
    if np.abs(amounts).sum() < FITTING:
        return amounts.astype(np.int64)
    return np.array([int(amount) for amount in amounts.tolist()], object)
