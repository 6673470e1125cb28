"""Evidence on a proportion with too few events for a normal approximation. Pure."""

import math
from collections.abc import Sequence
from typing import ClassVar, Final

from app.analysis.evidence.effect import EVERY_LOOK, Evidence, sides
from app.analysis.strata import comparable_means
from stats import sequential_counts
from stats.eprocess import EValue
from stats.errors import InsufficientData
from stats.interval import Interval
from stats.sequential_counts import EventCounts
from stats.totals import ProportionTotals

_EXPECTED_RATIO: Final = 2.0
"""Where the test of the ratio is most powerful: rates that differ by this factor."""


class RareEvidence(Evidence, frozen=True):
    """The arms in which rare events fell, against the arms' shares of the units, epoch by epoch.

    The ratio of rates is exact at any split and any base rate. The interval of the difference is
    that of the ratio at the observed `rate` of both arms together: it excludes 0 exactly where the
    ratio excludes 1. If successes are the rule, the rare events are the failures.
    """

    method: ClassVar[str] = "exact conditional sequence of rare events, stratified by epoch"
    guarantee: ClassVar[str] = f"{EVERY_LOOK}, from the first event on"

    periods: tuple[EventCounts, ...]
    means: tuple[float, float]
    rate: float
    share: float
    failures: bool

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """Return the interval of the difference, at the observed rate of both arms together."""
        ratio = self._ratio(level, each=each)
        lower, upper = (
            sequential_counts.difference_at(bound, rate=self.rate, share=self.share)
            for bound in (ratio.lower, ratio.upper)
        )
        return Interval(-upper, -lower) if self.failures else Interval(lower, upper)

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """Return the interval of treatment / control - 1; None where successes are the rule."""
        if self.failures:
            return None
        ratio = self._ratio(level, each=each)
        return Interval(ratio.lower - 1, ratio.upper - 1)

    def _ratio(self, level: float, *, each: bool) -> Interval:
        lower, upper = (
            sequential_counts.ratio_sequence(
                self.periods, alpha=level, expected_ratio=_EXPECTED_RATIO, alternative=side
            )
            for side in sides(each=each)
        )
        return Interval(lower.lower, upper.upper)

    @property
    def e_value(self) -> EValue | None:
        """Evidence against equal rates; it reaches 1 / level exactly where the interval excludes 0."""
        return sequential_counts.ratio_evalue(
            self.periods, expected_ratio=_EXPECTED_RATIO, alternative="two-sided"
        )


def rare_evidence(pairs: Sequence[tuple[ProportionTotals, ProportionTotals]]) -> RareEvidence | None:
    """Return the evidence of (control, treatment) per epoch; None without rare events."""
    control_n, treatment_n = (sum(pair[arm].n for pair in pairs) for arm in (0, 1))
    successes = sum(control.successes + treatment.successes for control, treatment in pairs)
    n = control_n + treatment_n
    if not 0 < successes < n or not sequential_counts.rare(control_n, treatment_n, successes / n):
        return None
    failures = 2 * successes > n
    periods = tuple(
        EventCounts(
            control.n - control.successes if failures else control.successes,
            treatment.n - treatment.successes if failures else treatment.successes,
            treatment.n / (control.n + treatment.n),
        )
        for control, treatment in pairs
    )
    means = comparable_means(pairs)
    share = treatment_n / n
    rate = math.fsum(((1 - share) * means[0], share * means[1]))
    if not any(period.control + period.treatment for period in periods):
        raise InsufficientData("no epoch with both variants has an event")
    return RareEvidence(periods, means, 1 - rate if failures else rate, share, failures)
