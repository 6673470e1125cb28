"""Paired comparison of two variants on the same requests, judged blind in both orders.

Each request has a response of the control and one of the challenger. A judge compares them twice,
once in each order. It prefers one of them only if both orders say so; a conflict is a tie, because
a judge that always prefers the first text says nothing about the texts.

The sign test leaves ties out: without a difference each decided pair is a coin flip. As a mixture
(a betting sequence) it is exact and valid at every look, so a replay can stop as soon as it is
decided.

Requests are drawn at one known rate; strata drawn at other rates need results of their own. Give
each unit one pair, or pairs of one conversation count as independent.
"""

from collections.abc import Mapping
from typing import Final, Literal, Self

import msgspec

from stats import checks
from stats.bounded import bounded_sequence
from stats.errors import InvalidInput
from stats.interval import Interval
from stats.proportions import exact_interval
from stats.totals import ProportionTotals

Preference = Literal["challenger", "control", "tie"]
Decision = Literal["better", "not_worse", "worse", "undecided"]

PAIRS_EXPECTED: Final = 200
_SHARE_ERROR: Final = 0.1
"""Part of alpha for the share of decided pairs; the sign test has the other part."""


def both_orders(control_first: Preference, challenger_first: Preference) -> Preference:
    """Return what both orders say together: their common preference, or a tie.

    Worked by hand: "challenger" and "challenger" is "challenger"; "control" and "challenger" is a
    tie, because the judge preferred the first text twice.
    """
    return control_first if control_first == challenger_first else "tie"


class PairedTotals(msgspec.Struct, frozen=True):
    """Pairs that the challenger won, lost and tied; `first` and `second` are ties by conflict.

    `first` counts pairs in which the judge preferred the first text in both orders, `second` those
    in which it preferred the second. Raises InvalidInput if a count is negative, or the conflicts
    exceed the ties.
    """

    wins: int = 0
    losses: int = 0
    ties: int = 0
    first: int = 0
    second: int = 0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            checks.not_negative(getattr(self, name), name)
        if self.first + self.second > self.ties:
            raise InvalidInput(
                f"conflicts are ties: got {self.first + self.second} conflicts and {self.ties} ties"
            )

    @classmethod
    def of(cls, control_first: Preference, challenger_first: Preference) -> "PairedTotals":
        """Return the totals of one pair."""
        outcome = both_orders(control_first, challenger_first)
        orders = (control_first, challenger_first)
        return cls(
            wins=int(outcome == "challenger"),
            losses=int(outcome == "control"),
            ties=int(outcome == "tie"),
            first=int(orders == ("control", "challenger")),
            second=int(orders == ("challenger", "control")),
        )

    def __add__(self, other: Self) -> "PairedTotals":
        return PairedTotals(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return self.wins + self.losses + self.ties

    @property
    def decided(self) -> ProportionTotals:
        """Wins among the pairs without a tie."""
        return ProportionTotals(self.wins + self.losses, self.wins)


class PairedResult(msgspec.Struct, frozen=True):
    """Net wins of the challenger as a share of all pairs.

    `interval` holds at every look. It excludes 0 exactly if the sign test decides. `value` is None
    without pairs.
    """

    totals: PairedTotals
    value: float | None
    interval: Interval
    decision: Decision


class PairedComparison(msgspec.Struct, frozen=True):
    """The result over all pairs, and one per stratum; those of the strata hold together."""

    overall: PairedResult
    strata: dict[str, PairedResult]


def paired_comparison(
    strata: Mapping[str, PairedTotals],
    *,
    alpha: float,
    margin: float = 0.0,
    tuned_to: float = PAIRS_EXPECTED,
) -> PairedComparison:
    """Compare a challenger with the control over all strata, and in each.

    The overall result has error `alpha`. The strata share another `alpha` (Bonferroni): they show
    where a challenger that is better overall is worse.

    Raises InvalidInput unless alpha is in (0, 1) and margin in [0, 1].
    """
    overall = PairedTotals()
    for totals in strata.values():
        overall = overall + totals
    level = alpha / max(len(strata), 1)
    return PairedComparison(
        overall=paired_result(overall, alpha=alpha, margin=margin, tuned_to=tuned_to),
        strata={
            name: paired_result(totals, alpha=level, margin=margin, tuned_to=tuned_to)
            for name, totals in strata.items()
        },
    )


def paired_result(
    totals: PairedTotals, *, alpha: float, margin: float = 0.0, tuned_to: float = PAIRS_EXPECTED
) -> PairedResult:
    """Return the net win rate of the challenger with an interval that is valid at every look.

    The net win rate is (wins - losses) / pairs = (2 p - 1) d, with p the wins among decided pairs
    and d the share of decided pairs. Its bounds combine the sequences of p (error 0.9 alpha) and d
    (error 0.1 alpha), both exact. The decision is "better" if the interval is above 0, "not_worse"
    if it is above -margin, "worse" if it is below 0 (and not above -margin).

    Worked by hand: without pairs p and d may be anything, so the interval is [-1, 1].

    Raises InvalidInput unless alpha is in (0, 1) and margin in [0, 1].
    """
    checks.open_unit(alpha, "alpha")
    checks.closed_unit(margin, "margin")
    decided = totals.decided
    wins = bounded_sequence(decided, alpha=(1 - _SHARE_ERROR) * alpha, tuned_to=tuned_to)
    share = bounded_sequence(
        ProportionTotals(totals.pairs, decided.n), alpha=_SHARE_ERROR * alpha, tuned_to=tuned_to
    )
    low, high = 2 * wins.lower - 1, 2 * wins.upper - 1
    interval = Interval(
        low * (share.lower if low > 0 else share.upper), high * (share.upper if high > 0 else share.lower)
    )
    if interval.lower > 0:
        decision: Decision = "better"
    elif margin and interval.lower > -margin:
        decision = "not_worse"
    else:
        decision = "worse" if interval.upper < 0 else "undecided"
    value = (totals.wins - totals.losses) / totals.pairs if totals.pairs else None
    return PairedResult(totals, value, interval, decision)


def position_bias(totals: PairedTotals, *, alpha: float) -> Interval:
    """Return the interval of the share of conflicts in which the judge preferred the first text.

    Without position bias it contains 1/2. It holds at one planned look.

    Raises InsufficientData without a conflict.

    Source: Clopper & Pearson (1934), see `proportions.exact_interval`.
    """
    return exact_interval(ProportionTotals(totals.first + totals.second, totals.first), alpha=alpha)
