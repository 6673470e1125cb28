"""Evidence of plans with a last look: at one fixed horizon, or at a few planned looks. Pure."""

import math
from functools import lru_cache
from typing import ClassVar

from scipy import special

from app.analysis.evidence.effect import AT_ONE_LOOK, Evidence, sides, two_sided
from stats.eprocess import EValue
from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.group_sequential import GroupSequentialPlan, Spending
from stats.interval import Interval
from stats.proportions import score_interval, score_test
from stats.relative import fieller_interval, risk_ratio_interval
from stats.totals import ProportionTotals


class FixedEvidence(Evidence, frozen=True):
    """Welch's comparison of means, stratified by epoch; `arms` are the estimates of (control, treatment)."""

    effect: Estimate
    arms: tuple[Estimate, Estimate] | None
    means: tuple[float, float]
    e_value: EValue | None = None

    @property
    def method(self) -> str:
        """Name of the method."""
        return "Welch's t, stratified by epoch"

    @property
    def guarantee(self) -> str:
        """When the intervals hold."""
        return AT_ONE_LOOK

    @property
    def standard_error(self) -> float | None:
        """Of the difference, at one look."""
        return self.effect.standard_error

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """Return the interval of the difference."""
        return self.effect.interval(alpha=two_sided(level, each=each))

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """Fieller's."""
        return _fieller(self.arms, two_sided(level, each=each))

    @property
    def p_value(self) -> float | None:
        """Two-sided."""
        return self.effect.test().p_value


class ScoreEvidence(Evidence, frozen=True):
    """The score test of two proportions in one epoch, right for few successes too."""

    method: ClassVar[str] = "score test of two proportions"
    guarantee: ClassVar[str] = AT_ONE_LOOK

    control: ProportionTotals
    treatment: ProportionTotals
    e_value: EValue | None = None

    @property
    def means(self) -> tuple[float, float]:
        """Both proportions."""
        return self.control.mean, self.treatment.mean

    @property
    def standard_error(self) -> float | None:
        """Of the difference, at one look."""
        variances = [arm.mean * (1 - arm.mean) / arm.n for arm in (self.control, self.treatment)]
        return math.sqrt(sum(variances))

    def interval(self, level: float, *, each: bool = False) -> Interval:
        """Return the interval of the difference."""
        return score_interval(self.treatment, self.control, alpha=two_sided(level, each=each))

    def relative_interval(self, level: float, *, each: bool = False) -> Interval | None:
        """Koopman's."""
        try:
            return risk_ratio_interval(self.treatment, self.control, alpha=two_sided(level, each=each))
        except InsufficientData:
            return None

    @property
    def p_value(self) -> float | None:
        """Two-sided; None where no unit succeeded, or all did: the interval still has an answer."""
        try:
            return score_test(self.treatment, self.control).p_value
        except InsufficientData:
            return None


class GroupSequentialEvidence(FixedEvidence, frozen=True, kw_only=True):
    """Repeated intervals of a group sequential plan; `fractions` are those of the looks up to this one."""

    fractions: tuple[float, ...]
    looks: int
    spending: Spending

    @property
    def method(self) -> str:
        """Name of the method."""
        return f"group sequential ({self.spending} spending), look {len(self.fractions)} of {self.looks}"

    @property
    def guarantee(self) -> str:
        """When the intervals hold."""
        return f"valid at the {self.looks} planned looks together, once at each"

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


@lru_cache(maxsize=1_024)
def _boundary_of(plan: GroupSequentialPlan, fractions: tuple[float, ...]) -> float:
    """That of the last look: the same for all metrics and segments of an experiment."""
    return plan.boundaries(fractions)[-1]


def _fieller(arms: tuple[Estimate, Estimate] | None, alpha: float) -> Interval | None:
    if arms is None or not arms[0].value:
        return None
    try:
        return fieller_interval(arms[1], arms[0], alpha=alpha)
    except InsufficientData:
        return None
