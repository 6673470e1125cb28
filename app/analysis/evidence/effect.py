"""One treatment against the control on one metric: what the data say at any level of error. Pure.

Every kind of evidence answers the same questions, whatever its method; the readout asks nothing else. A
level is the probability that an interval misses: corrections for many metrics choose the level, never the
method.
"""

import math
from functools import cached_property, lru_cache
from typing import Final, Protocol

import msgspec
from scipy import optimize

from stats import bounded, concurrent, mixture, sequences, sequential_counts
from stats.adaptive import AdaptiveEstimate
from stats.concurrent import ConcurrentArms
from stats.eprocess import EValue
from stats.errors import InsufficientData
from stats.estimate import Alternative
from stats.interval import Interval
from stats.quantiles import (
    QuantileSketch,
    quantile,
    quantile_difference_interval,
    quantile_difference_sequence,
    quantile_interval,
    quantile_sequence,
)
from stats.sequences import Contrast
from stats.sequential_counts import EventCounts
from stats.totals import MeanTotals

_EVERY_LOOK: Final = "valid at every look"
AT_ONE_LOOK: Final = "fixed horizon: valid at one look that was planned beforehand"
_RATE_MIN: Final = 1e-12


class Evidence(Protocol):
    """What the readout asks of a comparison, treatment less control.

    `interval` and `relative_interval` miss with probability `level`; with `each`, each of their bounds does,
    which is what two one-sided tests need. `e_value` is against "no difference" and valid at every look;
    `p_value` is that of the interval's own rule. None: this method has none.
    """

    @property
    def method(self) -> str:
        """Name of the method, and the source of its data if that matters."""

    @property
    def guarantee(self) -> str:
        """When the intervals hold."""

    @property
    def means(self) -> tuple[float, float]:
        """Comparable estimates of (control, treatment)."""

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """For the difference."""

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """Interval of (treatment - control) / |control|; None if the control may be 0."""

    @property
    def standard_error(self) -> float | None:
        """Of the difference, at one look; None if the method has none."""

    @property
    def e_value(self) -> EValue | None:
        """Evidence against no difference, valid at every look."""

    @property
    def p_value(self) -> float | None:
        """Of no difference, by the rule of the interval at one look."""


def sides(*, each: bool) -> tuple[Alternative, Alternative]:
    """What gives the lower bound, and what gives the upper one."""
    return ("greater", "less") if each else ("two-sided", "two-sided")


def two_sided(level: float, *, each: bool) -> float:
    """The two-sided level at which a symmetric method's bounds miss with `level`, together or each."""
    return min(2 * level, 1 - 1e-9) if each else level


def relative_of_bounds(control: Interval, treatment: Interval) -> Interval | None:
    """All (t - c) / |c| with t and c within these bounds; None unless 0 is outside of those of the control.

    Worked by hand: 9 to 10 against 8 to 12: from 8 / 10 - 1 = -0.2 to 12 / 9 - 1 = 0.333. The same below 0
    changes places: -9 to -10 against -8 to -12 is -0.333 to 0.2.
    """
    if control.upper < 0:
        mirrored = relative_of_bounds(
            Interval(-control.upper, -control.lower), Interval(-treatment.upper, -treatment.lower)
        )
        return None if mirrored is None else Interval(-mirrored.upper, -mirrored.lower)
    if control.lower <= 0:
        return None
    lower = treatment.lower / (control.upper if treatment.lower > 0 else control.lower)
    upper = treatment.upper / (control.lower if treatment.upper > 0 else control.upper)
    return Interval(lower - 1, upper - 1)


class Tuning(msgspec.Struct, frozen=True):
    """Where sequences are tightest: `tuned_to` at the plan's `alpha`.

    At another level the *same* mixture is used (the same rho), so that the e-value reaches 1 / level exactly
    where the interval at that level excludes 0.
    """

    tuned_to: float
    alpha: float

    def rho(self, alternative: Alternative) -> float:
        """The mixture's parameter."""
        return mixture.tuned(self.tuned_to, alpha=self.alpha, alternative=alternative)

    def at(self, level: float, alternative: Alternative) -> float:
        """What a sequence at this level has to be `tuned_to` for the mixture to be the same."""
        return self.rho(alternative) / mixture.tuned(1.0, alpha=level, alternative=alternative)


class SequenceEvidence(msgspec.Struct, frozen=True):
    """Asymptotic confidence sequence on means of units within epochs."""

    contrast: Contrast
    tuning: Tuning

    @property
    def method(self) -> str:
        """Name of the method."""
        return "asymptotic confidence sequence, stratified by epoch"

    @property
    def guarantee(self) -> str:
        """When the intervals hold."""
        return f"{_EVERY_LOOK}, from {sequences.ARM_UNITS_MIN} units per variant on"

    @property
    def means(self) -> tuple[float, float]:
        """Weighted alike over epochs, so that they are comparable."""
        return self.contrast.control_mean, self.contrast.treatment_mean

    @property
    def standard_error(self) -> float | None:
        """Of the difference, at one look."""
        return math.sqrt(self.contrast.control_variance + self.contrast.treatment_variance)

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """For the difference."""
        lower, upper = (self._sequence(level, side, relative=False) for side in sides(each=each))
        return Interval(lower.lower, upper.upper)

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """Interval of (treatment - control) / |control|."""
        try:
            lower, upper = (self._sequence(level, side, relative=True) for side in sides(each=each))
        except InsufficientData:
            return None
        return Interval(lower.lower, upper.upper)

    def _sequence(self, level: float, side: Alternative, *, relative: bool) -> Interval:
        method = sequences.relative_difference_sequence if relative else sequences.difference_sequence
        return method(self.contrast, alpha=level, tuned_to=self.tuning.at(level, side), alternative=side)

    @property
    def e_value(self) -> EValue | None:
        """It reaches 1 / level exactly where the interval excludes 0."""
        return self.contrast.evalue(rho=self.tuning.rho("two-sided"), alternative="two-sided")

    @property
    def p_value(self) -> float | None:
        """The anytime-valid one."""
        return None if self.e_value is None else self.e_value.p_value


class BoundedEvidence(msgspec.Struct, frozen=True, dict=True):
    """Exact sequences of both arms, for values known to lie within bounds, under a fixed split.

    The totals are those of (value - lower) / width. The time of each sequence is its arm's own count. Its
    mean must not drift.
    """

    control: MeanTotals
    treatment: MeanTotals
    lower: float
    width: float
    tuning: Tuning

    @property
    def method(self) -> str:
        """Name of the method."""
        return "exact confidence sequences of bounded values, one per variant"

    @property
    def guarantee(self) -> str:
        """When the intervals hold."""
        return f"{_EVERY_LOOK}; a variant's mean is taken not to drift"

    @property
    def means(self) -> tuple[float, float]:
        """The plain averages."""
        return self.lower + self.width * self.control.mean, self.lower + self.width * self.treatment.mean

    @property
    def standard_error(self) -> float | None:
        """Of the difference, at one look."""
        return None

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """For the difference."""
        lower_side, upper_side = sides(each=each)
        lower = self._arm(self.treatment, level, lower_side).lower
        lower -= self._arm(self.control, level, upper_side).upper
        upper = self._arm(self.treatment, level, upper_side).upper
        upper -= self._arm(self.control, level, lower_side).lower
        return Interval(self.width * lower, self.width * upper)

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """Interval of (treatment - control) / |control|; None if the mean of the control may be 0."""
        control, treatment = (self._both(arm, level, each=each) for arm in (self.control, self.treatment))
        return relative_of_bounds(control, treatment)

    def _both(self, arm: MeanTotals, level: float, *, each: bool) -> Interval:
        """Lower and upper bound of one arm's mean, in the metric's unit."""
        lower, upper = (self._arm(arm, level, side) for side in sides(each=each))
        return Interval(self.lower + self.width * lower.lower, self.lower + self.width * upper.upper)

    def _arm(self, arm: MeanTotals, level: float, side: Alternative) -> Interval:
        """The sequence of one arm, at half the level: the other half is the other arm's."""
        return _bounded(arm, level / 2, self.tuning.at(level / 2, side), side)

    @cached_property
    def e_value(self) -> EValue | None:
        """Against every common mean: half the greater of both arms' evidence, where that is least."""
        weight = max(self.tuning.rho("two-sided") - 1, 0.5)

        def log_evidence(arm: MeanTotals, p: float) -> float:
            return float(bounded.log_beta_mixture(arm.n * arm.mean, arm.n, p, weight=weight))

        def surplus(p: float) -> float:
            return log_evidence(self.treatment, p) - log_evidence(self.control, p)

        c, t = (min(max(arm.mean, _RATE_MIN), 1 - _RATE_MIN) for arm in (self.control, self.treatment))
        if surplus(c) * surplus(t) < 0:
            p = float(optimize.brentq(surplus, min(c, t), max(c, t), xtol=1e-15))
        else:  # One arm's evidence is the greater all the way between the means: it is least at its own.
            p = t if surplus(c) > 0 else c
        least = max(log_evidence(self.treatment, p), log_evidence(self.control, p))
        return EValue(least - math.log(2))

    @property
    def p_value(self) -> float | None:
        """The anytime-valid one."""
        return None if self.e_value is None else self.e_value.p_value


@lru_cache(maxsize=4_096)
def _bounded(arm: MeanTotals, alpha: float, tuned_to: float, side: Alternative) -> Interval:
    """That of one arm: the same in every comparison that the arm is part of, and for every question."""
    return bounded.bounded_sequence(arm, alpha=alpha, tuned_to=tuned_to, alternative=side)


class EventEvidence(msgspec.Struct, frozen=True):
    """Rare events, such as errors: in which variant those fell that happened, against its share of the units.

    Only the ratio of rates is tested this way; the interval of the difference is that of `bounded`, exact as
    well and wider. `periods` are epochs, with the share that the treatment has of both variants' units. That
    is the share that came out, which the events are part of: the less rare they are, the more cautious the
    test is.
    """

    periods: tuple[EventCounts, ...]
    bounded: BoundedEvidence
    rates: tuple[float, float]
    expected_ratio: float

    @property
    def method(self) -> str:
        """Name of the method."""
        return "exact conditional sequences of rare events, stratified by epoch"

    @property
    def guarantee(self) -> str:
        """When the intervals hold."""
        return f"{_EVERY_LOOK}, from the first event on"

    @property
    def means(self) -> tuple[float, float]:
        """Weighted alike over epochs, so that they are comparable."""
        return self.rates

    @property
    def standard_error(self) -> float | None:
        """None: with so few events it says little."""
        return None

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """For the difference: plain counts over all epochs would bring Simpson's paradox, so only of one."""
        return self.bounded.interval(level, each=each) if len(self.periods) == 1 else Interval(-1.0, 1.0)

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """For treatment / control - 1; None before the first event."""
        try:
            lower, upper = (
                sequential_counts.ratio_sequence(
                    self.periods, alpha=level, expected_ratio=self.expected_ratio, alternative=side
                )
                for side in sides(each=each)
            )
        except InsufficientData:
            return None
        return Interval(lower.lower - 1, upper.upper - 1)

    @property
    def e_value(self) -> EValue | None:
        """It reaches 1 / level exactly where the relative interval excludes 0."""
        return sequential_counts.ratio_evalue(
            self.periods, expected_ratio=self.expected_ratio, alternative="two-sided"
        )

    @property
    def p_value(self) -> float | None:
        """The anytime-valid one."""
        return None if self.e_value is None else self.e_value.p_value


class ConcurrentEvidence(SequenceEvidence, frozen=True):
    """Confidence sequence on units that a policy drew at the same time, from logged propensities.

    `once` is the estimate at one look, whose weights make its error normal (`stats.concurrent.one_look`).
    """

    once: AdaptiveEstimate

    @property
    def method(self) -> str:
        """Name of the method."""
        return "confidence sequence from logged propensities, stratified by shares"

    @property
    def guarantee(self) -> str:
        """When the intervals hold."""
        least = concurrent.ARM_UNITS_MIN
        return f"{_EVERY_LOOK} and under any drift, from {least} units per variant on"

    @property
    def standard_error(self) -> float | None:
        """Of the difference, at one look."""
        return self.once.standard_error


class ConcurrentEventEvidence(msgspec.Struct, frozen=True):
    """Exact sequence on units that a policy drew at the same time, while events within [0, 1] are few."""

    arms: tuple[ConcurrentArms, ...]
    tuning: Tuning

    @property
    def method(self) -> str:
        """Name of the method."""
        return "exact confidence sequence from logged propensities, stratified by shares"

    @property
    def guarantee(self) -> str:
        """When the intervals hold."""
        return f"{_EVERY_LOOK} and under any drift, from the first event on"

    @property
    def means(self) -> tuple[float, float]:
        """Weighted alike over strata, so that they are comparable."""
        return concurrent.comparable(self.arms)

    @property
    def standard_error(self) -> float | None:
        """None: with so few events it says little."""
        return None

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """For the difference."""
        alpha = two_sided(level, each=each)
        return concurrent.event_sequence(self.arms, alpha=alpha, tuned_to=self.tuning.tuned_to)

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:  # noqa: ARG002
        """None: with so few events the control cannot be told from 0."""
        return None

    @property
    def e_value(self) -> EValue | None:
        """None: not offered."""
        return None

    @property
    def p_value(self) -> float | None:
        """None: the interval decides."""
        return None


class QuantileEvidence(msgspec.Struct, frozen=True):
    """The difference of two quantiles: at one planned look, or (with a tuning) at every look."""

    control: QuantileSketch
    treatment: QuantileSketch
    q: float
    tuning: Tuning | None

    @property
    def method(self) -> str:
        """Name of the method."""
        how = "order statistics" if self.tuning is None else "exact confidence sequences"
        return f"quantiles by {how}, one observation per unit"

    @property
    def guarantee(self) -> str:
        """When the intervals hold."""
        if self.tuning is None:
            return AT_ONE_LOOK
        return f"{_EVERY_LOOK}; a variant's distribution is taken not to drift"

    @property
    def means(self) -> tuple[float, float]:
        """Both quantiles."""
        return quantile(self.control, self.q), quantile(self.treatment, self.q)

    @property
    def standard_error(self) -> float | None:
        """Of the difference, at one look."""
        return None

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """For the difference."""
        alpha = two_sided(level, each=each)
        if self.tuning is None:
            return quantile_difference_interval(self.treatment, self.control, self.q, alpha=alpha)
        return quantile_difference_sequence(
            self.treatment,
            self.control,
            self.q,
            alpha=alpha,
            tuned_to=self.tuning.at(alpha / 4, "greater"),
        )

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """Interval of (treatment - control) / |control|, from one interval per quantile at half the level."""
        alpha = two_sided(level, each=each)
        try:
            control, treatment = (self._arm(arm, alpha / 2) for arm in (self.control, self.treatment))
        except InsufficientData:
            return None
        return relative_of_bounds(control, treatment)

    def _arm(self, arm: QuantileSketch, alpha: float) -> Interval:
        """The interval of one arm's quantile."""
        if self.tuning is None:
            return quantile_interval(arm, self.q, alpha=alpha)
        tuned_to = self.tuning.at(alpha / 2, "greater")
        return quantile_sequence(arm, self.q, alpha=alpha, tuned_to=tuned_to)

    @property
    def e_value(self) -> EValue | None:
        """None: not offered."""
        return None

    @property
    def p_value(self) -> float | None:
        """None: order statistics give an interval only."""
        return None
