"""Evidence about one treatment against the control on one metric, at any level of error. Pure.

Every kind of evidence answers the same questions, whatever its method. A level is the probability
that an interval misses: corrections for many metrics choose the level, never the method.
"""

import math
from functools import cached_property, lru_cache
from typing import ClassVar, Final

import msgspec
from scipy import optimize

from stats import bounded, concurrent, mixture, sequences
from stats.adaptive import AdaptiveEstimate
from stats.concurrent import ConcurrentArms
from stats.eprocess import EValue
from stats.errors import InsufficientData
from stats.estimate import Alternative, Estimate
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
from stats.totals import MeanTotals

EVERY_LOOK: Final = "valid at every look"
AT_ONE_LOOK: Final = "fixed horizon: valid at one look that was planned beforehand"
_RATE_MIN: Final = 1e-12


class Evidence(msgspec.Struct, frozen=True):
    """Evidence of a comparison, treatment less control, as the readout uses it.

    An interval misses with probability `level`; with `each`, each of its bounds does, which is what
    two one-sided tests need.
    """

    @property
    def method(self) -> str:
        """Name of the method, and the source of its data if that matters."""
        raise NotImplementedError

    @property
    def guarantee(self) -> str:
        """Condition under which the intervals hold."""
        raise NotImplementedError

    @property
    def means(self) -> tuple[float, float]:
        """Comparable estimates of (control, treatment)."""
        raise NotImplementedError

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """Return the interval of the difference."""
        raise NotImplementedError

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """Return the interval of (treatment - control) / |control|; None if the control may be 0."""
        raise NotImplementedError

    @property
    def standard_error(self) -> float | None:
        """Standard error of the difference at one look; None if the method has none."""
        return None

    @property
    def null_effect(self) -> Estimate | None:
        """The difference with the variance that it has if the variants do not differ; None if there is none.

        Segments are compared with it.
        """
        control, treatment = self.means
        return Estimate(treatment - control, self.standard_error) if self.standard_error else None

    @property
    def e_value(self) -> EValue | None:
        """Evidence against no difference, valid at every look; None if the method has none.

        It reaches 1 / level exactly where the interval at that level excludes 0.
        """
        return None

    @property
    def p_value(self) -> float | None:
        """P-value of no difference by the rule of the interval; by default the anytime-valid one."""
        return None if self.e_value is None else self.e_value.p_value


def sides(*, each: bool) -> tuple[Alternative, Alternative]:
    """Return the alternatives that give the lower and the upper bound."""
    return ("greater", "less") if each else ("two-sided", "two-sided")


def two_sided(level: float, *, each: bool) -> float:
    """Return the two-sided level at which symmetric bounds miss with `level`, together or each."""
    return min(2 * level, 1 - 1e-9) if each else level


def relative_of_bounds(control: Interval, treatment: Interval) -> Interval | None:
    """Return the interval of (t - c) / |c| for t and c within these bounds.

    None unless 0 is outside of the bounds of the control.

    Worked by hand: 9 to 10 against 8 to 12: from 8 / 10 - 1 = -0.2 to 12 / 9 - 1 = 0.333. Below 0
    the bounds change places: -9 to -10 against -8 to -12 is -0.333 to 0.2.
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
    """The sample size at which sequences are tightest, `tuned_to`, at the plan's `alpha`.

    Other levels use the *same* mixture (the same rho), so that the e-value reaches 1 / level
    exactly where the interval at that level excludes 0.
    """

    tuned_to: float
    alpha: float

    def rho(self, alternative: Alternative) -> float:
        """Return the mixture's parameter."""
        return mixture.tuned(self.tuned_to, alpha=self.alpha, alternative=alternative)

    def at(self, level: float, alternative: Alternative) -> float:
        """Return what a sequence at this level must be `tuned_to` for the same mixture."""
        return self.rho(alternative) / mixture.tuned(1.0, alpha=level, alternative=alternative)


class SequenceEvidence(Evidence, frozen=True):
    """Asymptotic confidence sequence on means of units within epochs."""

    method: ClassVar[str] = "asymptotic confidence sequence, stratified by epoch"
    guarantee: ClassVar[str] = f"{EVERY_LOOK}, from {sequences.ARM_UNITS_MIN} units per variant on"

    contrast: Contrast
    tuning: Tuning

    @property
    def means(self) -> tuple[float, float]:
        """Weighted alike over epochs, so that they are comparable."""
        return self.contrast.control_mean, self.contrast.treatment_mean

    @property
    def standard_error(self) -> float | None:
        """Standard error of the difference at one look."""
        return math.sqrt(self.contrast.control_variance + self.contrast.treatment_variance)

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """Return the interval of the difference."""
        lower, upper = (self._sequence(level, side, relative=False) for side in sides(each=each))
        return Interval(lower.lower, upper.upper)

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """Return the interval of (treatment - control) / |control|."""
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
        """Evidence against no difference, by the mixture of the interval."""
        return self.contrast.evalue(rho=self.tuning.rho("two-sided"), alternative="two-sided")


class BoundedEvidence(Evidence, frozen=True, dict=True):
    """Exact sequences of both arms, for values known to lie within bounds, under a fixed split.

    The totals are those of (value - lower) / width. The time of each sequence is its arm's own count. Its
    mean must not drift.
    """

    method: ClassVar[str] = "exact confidence sequences of bounded values, one per variant"
    guarantee: ClassVar[str] = f"{EVERY_LOOK}; assumes that a variant's mean does not drift"

    control: MeanTotals
    treatment: MeanTotals
    lower: float
    width: float
    tuning: Tuning

    @property
    def means(self) -> tuple[float, float]:
        """The plain averages."""
        return self.lower + self.width * self.control.mean, self.lower + self.width * self.treatment.mean

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """Return the interval of the difference."""
        lower_side, upper_side = sides(each=each)
        lower = self._arm(self.treatment, level, lower_side).lower
        lower -= self._arm(self.control, level, upper_side).upper
        upper = self._arm(self.treatment, level, upper_side).upper
        upper -= self._arm(self.control, level, lower_side).lower
        return Interval(self.width * lower, self.width * upper)

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """Return the interval of (treatment - control) / |control|; None if the control may be 0."""
        control, treatment = (self._both(arm, level, each=each) for arm in (self.control, self.treatment))
        return relative_of_bounds(control, treatment)

    def _both(self, arm: MeanTotals, level: float, *, each: bool) -> Interval:
        """Return the bounds of one arm's mean, in the metric's unit."""
        lower, upper = (self._arm(arm, level, side) for side in sides(each=each))
        return Interval(self.lower + self.width * lower.lower, self.lower + self.width * upper.upper)

    def _arm(self, arm: MeanTotals, level: float, side: Alternative) -> Interval:
        """Return the sequence of one arm at half the level; the other arm has the other half."""
        return _bounded(arm, level / 2, self.tuning.at(level / 2, side), side)

    @cached_property
    def e_value(self) -> EValue | None:
        """Evidence against every common mean: half the greater of both arms' evidence, at its minimum."""
        weight = max(self.tuning.rho("two-sided") - 1, 0.5)

        def log_evidence(arm: MeanTotals, p: float) -> float:
            return float(bounded.log_beta_mixture(arm.n * arm.mean, arm.n, p, weight=weight))

        def surplus(p: float) -> float:
            return log_evidence(self.treatment, p) - log_evidence(self.control, p)

        c, t = (min(max(arm.mean, _RATE_MIN), 1 - _RATE_MIN) for arm in (self.control, self.treatment))
        if surplus(c) * surplus(t) < 0:
            p = float(optimize.brentq(surplus, min(c, t), max(c, t), xtol=1e-15))
        else:  # One arm's evidence is greater everywhere between the means, and least at its own mean.
            p = t if surplus(c) > 0 else c
        least = max(log_evidence(self.treatment, p), log_evidence(self.control, p))
        return EValue(least - math.log(2))


@lru_cache(maxsize=4_096)
def _bounded(arm: MeanTotals, alpha: float, tuned_to: float, side: Alternative) -> Interval:
    """Return the sequence of one arm, which all comparisons of the arm share."""
    return bounded.bounded_sequence(arm, alpha=alpha, tuned_to=tuned_to, alternative=side)


class ConcurrentEvidence(SequenceEvidence, frozen=True):
    """Confidence sequence on units that a policy drew at the same time, from logged propensities.

    `once` is the estimate at one look, whose weights make its error normal (`stats.concurrent.one_look`).
    """

    method: ClassVar[str] = "confidence sequence from logged propensities, stratified by shares"
    guarantee: ClassVar[str] = (
        f"{EVERY_LOOK} and under any drift, from {concurrent.ARM_UNITS_MIN} units per variant on"
    )

    once: AdaptiveEstimate

    @property
    def standard_error(self) -> float | None:
        """Standard error of the difference, at one look."""
        return self.once.standard_error


class ConcurrentEventEvidence(Evidence, frozen=True):
    """Exact sequence on units that a policy drew at the same time, while events within [0, 1] are few."""

    method: ClassVar[str] = "exact confidence sequence from logged propensities, stratified by shares"
    guarantee: ClassVar[str] = f"{EVERY_LOOK} and under any drift, from the first event on"

    arms: tuple[ConcurrentArms, ...]
    tuning: Tuning

    @property
    def means(self) -> tuple[float, float]:
        """Weighted alike over strata, so that they are comparable."""
        return concurrent.comparable(self.arms)

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """Return the interval of the difference."""
        alpha = two_sided(level, each=each)
        return concurrent.event_sequence(self.arms, alpha=alpha, tuned_to=self.tuning.tuned_to)

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:  # noqa: ARG002
        """Return None: with so few events the control cannot be told from 0."""
        return None


class QuantileEvidence(Evidence, frozen=True):
    """The difference of two quantiles, at one planned look or, with a tuning, at every look."""

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
        """Condition under which the intervals hold."""
        if self.tuning is None:
            return AT_ONE_LOOK
        return f"{EVERY_LOOK}; assumes that a variant's distribution does not drift"

    @property
    def means(self) -> tuple[float, float]:
        """Quantiles of (control, treatment)."""
        return quantile(self.control, self.q), quantile(self.treatment, self.q)

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """Return the interval of the difference."""
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
        """Return the relative interval, from one interval per quantile at half the level."""
        alpha = two_sided(level, each=each)
        try:
            control, treatment = (self._arm(arm, alpha / 2) for arm in (self.control, self.treatment))
        except InsufficientData:
            return None
        return relative_of_bounds(control, treatment)

    def _arm(self, arm: QuantileSketch, alpha: float) -> Interval:
        """Return the interval of one arm's quantile."""
        if self.tuning is None:
            return quantile_interval(arm, self.q, alpha=alpha)
        tuned_to = self.tuning.at(alpha / 2, "greater")
        return quantile_sequence(arm, self.q, alpha=alpha, tuned_to=tuned_to)
