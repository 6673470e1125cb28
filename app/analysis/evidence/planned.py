"""Evidence of plans with a last look: at one fixed horizon, or at a few planned looks. Pure."""

import math
from functools import lru_cache
from typing import ClassVar, Final, assert_never

from scipy import special

from app.analysis.evidence.effect import AT_ONE_LOOK, Evidence, sides, two_sided
from app.experiments.plan import AlwaysValid, AnalysisPlan, FixedHorizon, GroupSequential
from stats.eprocess import EValue
from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.group_sequential import GroupSequentialPlan, Spending
from stats.interval import Interval
from stats.proportions import score_interval, score_test
from stats.relative import fieller_interval, risk_ratio_interval
from stats.totals import ProportionTotals

LOOK_TOLERANCE: Final = 0.02
"""A look may be read this far from its planned share of the units."""
HORIZON_TOLERANCE: Final = 0.01
"""The same for a fixed horizon. Read at each thousandth, a test at 5 % decides in 6.1 % of A/A tests."""
_STEP: Final = 0.01
_ROUNDING: Final = 1e-9


class FixedEvidence(Evidence, frozen=True):
    """Welch's comparison of means, stratified by epoch; `arms` are the estimates of (control, treatment)."""

    effect: Estimate
    null_effect: Estimate
    arms: tuple[Estimate, Estimate] | None
    means: tuple[float, float]
    e_value: EValue | None = None

    @property
    def method(self) -> str:
        """Name of the method."""
        return "Welch's t, stratified by epoch"

    @property
    def guarantee(self) -> str:
        """Condition under which the intervals hold."""
        return AT_ONE_LOOK

    @property
    def standard_error(self) -> float | None:
        """Standard error of the difference at one look."""
        return self.effect.standard_error

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """Return the interval of the difference."""
        return self.effect.interval(alpha=two_sided(level, each=each))

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """Return Fieller's interval."""
        return _fieller(self.arms, two_sided(level, each=each))

    @property
    def p_value(self) -> float | None:
        """Two-sided p-value."""
        return self.effect.test().p_value


class ScoreEvidence(Evidence, frozen=True):
    """The score test of two proportions in one epoch, valid for few successes too."""

    method: ClassVar[str] = "score test of two proportions"
    guarantee: ClassVar[str] = AT_ONE_LOOK

    control: ProportionTotals
    treatment: ProportionTotals
    e_value: EValue | None = None

    @property
    def means(self) -> tuple[float, float]:
        """Proportions of (control, treatment)."""
        return self.control.mean, self.treatment.mean

    @property
    def standard_error(self) -> float | None:
        """Standard error of the difference at one look."""
        variances = [arm.mean * (1 - arm.mean) / arm.n for arm in (self.control, self.treatment)]
        return math.sqrt(sum(variances))

    @property
    def null_effect(self) -> Estimate | None:
        """The difference with the variance of equal proportions."""
        n = self.control.n + self.treatment.n
        rate = (self.control.successes + self.treatment.successes) / n
        variance = rate * (1 - rate) * (1 / self.control.n + 1 / self.treatment.n)
        control, treatment = self.means
        return Estimate(treatment - control, math.sqrt(variance)) if variance else None

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """Return the interval of the difference."""
        return score_interval(self.treatment, self.control, alpha=two_sided(level, each=each))

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """Return Koopman's interval; None without a success in the control."""
        try:
            return risk_ratio_interval(self.treatment, self.control, alpha=two_sided(level, each=each))
        except InsufficientData:
            return None

    @property
    def p_value(self) -> float | None:
        """Two-sided p-value; None if no unit or every unit succeeded. The interval exists all the same."""
        try:
            return score_test(self.treatment, self.control).p_value
        except InsufficientData:
            return None


class GroupSequentialEvidence(FixedEvidence, frozen=True, kw_only=True):
    """Repeated intervals of a group sequential plan at one of its planned `looks`.

    `fractions` are those at which alpha may have been spent so far, as `look_fractions` gives them.
    """

    fractions: tuple[float, ...]
    looks: tuple[float, ...]
    spending: Spending

    @property
    def method(self) -> str:
        """Name of the method."""
        passed = sum(look <= self.fractions[-1] + LOOK_TOLERANCE for look in self.looks)
        return f"group sequential ({self.spending} spending), look {passed} of {len(self.looks)}"

    @property
    def guarantee(self) -> str:
        """When the intervals hold."""
        return f"valid at all {len(self.looks)} planned looks together, within 2 % of the units around each"

    def _boundary(self, level: float, *, each: bool) -> float:
        return _boundary_of(GroupSequentialPlan(level, self.spending, sides(each=each)[0]), self.fractions)

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """Return the interval of the difference."""
        distance = self._boundary(level, each=each) * self.effect.standard_error
        return Interval(self.effect.value - distance, self.effect.value + distance)

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """Return Fieller's interval, with the boundary of this look in place of the normal quantile."""
        nominal = 2 * float(special.ndtr(-self._boundary(level, each=each)))
        return _fieller(self.arms, nominal) if nominal > 0 else None

    @property
    def p_value(self) -> float | None:
        """None: before the end a plan has boundaries, not a p-value."""
        return None

    def unbiased_effect(self, level: float) -> float | None:
        """Return the median-unbiased effect once the plan has ended at this level; None before.

        It ends where the interval excludes 0, or at the last look. The plain difference is too large on
        average where it ended early.
        """
        z = self.effect.value / self.effect.standard_error
        ended = self.fractions[-1] >= self.looks[-1] - LOOK_TOLERANCE
        if not ended and abs(z) < self._boundary(level, each=False):
            return None
        information = 1 / (self.effect.variance * self.fractions[-1])
        plan = GroupSequentialPlan(level, self.spending)
        return plan.median_unbiased(z, self.fractions, information=information)


def look_fractions(looks: tuple[float, ...], now: float) -> tuple[float, ...]:
    """Return the information fractions at which alpha may have been spent, up to the planned look of now.

    A look is read within `LOOK_TOLERANCE` of its time, as often as you like: alpha is spent for each
    hundredth of the units in that window. Read every thousandth, plans at alpha 5 % decide in 5.0 to 5.8 % of
    A/A tests.

    Worked by hand: looks at 0.5 and 1, now 0.49: 0.48 and 0.49.

    Raises InsufficientData before, between and after the looks.
    """
    if not any(abs(now - look) <= LOOK_TOLERANCE + _ROUNDING for look in looks):
        raise InsufficientData(_between(looks, now))
    steps = round(LOOK_TOLERANCE / _STEP)
    grid = {round(look + step * _STEP, 6) for look in looks for step in range(-steps, steps + 1)}
    spent = (fraction for fraction in sorted(grid) if 0 < fraction < min(now - _STEP / 2, 1.0))
    return (*spent, now)


def closed(plan: AnalysisPlan, units: int) -> str:
    """Return why no verdict is given at this number of units; empty at a planned look.

    A plan that is valid at every look is never closed. A fixed horizon spends no alpha on looks
    around it, so its window is narrower.

    Worked by hand: a fixed horizon of 1,000 units gives a verdict from 990 to 1,010 of them.
    """
    now = units / plan.expected_units
    match plan.estimator:
        case AlwaysValid():
            return ""
        case FixedHorizon():
            at_look = abs(now - 1) <= HORIZON_TOLERANCE + _ROUNDING
            return "" if at_look else _between((1.0,), now)
        case GroupSequential(looks=looks):
            try:
                look_fractions(looks, now)
            except InsufficientData as outside:
                return str(outside)
            return ""
        case _:
            assert_never(plan.estimator)


def _between(looks: tuple[float, ...], now: float) -> str:
    """Say which look comes next, or that there is none."""
    later = next((look for look in looks if look > now), None)
    if later is None:
        return (
            f"the last look was planned at {looks[-1]:.0%} of the units, now it is {now:.0%}: the plan has "
            "ended with the readout of that look"
        )
    number = "first" if later == looks[0] else "next"
    return f"the {number} look is planned at {later:.0%} of the units, now it is {now:.0%}"


@lru_cache(maxsize=1_024)
def _boundary_of(plan: GroupSequentialPlan, fractions: tuple[float, ...]) -> float:
    """Return the boundary of the last look, which all metrics and segments of an experiment share."""
    return plan.boundaries(fractions)[-1]


def _fieller(arms: tuple[Estimate, Estimate] | None, alpha: float) -> Interval | None:
    if arms is None or not arms[0].value:
        return None
    try:
        return fieller_interval(arms[1], arms[0], alpha=alpha)
    except InsufficientData:
        return None
