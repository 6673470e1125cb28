"""Estimates with a standard error; interval and test follow from it."""

import math
from collections.abc import Iterable
from typing import Final, Literal, assert_never

import msgspec
from scipy import special

from stats import checks, tails
from stats.errors import InsufficientData, InvalidInput
from stats.interval import Interval

Alternative = Literal["two-sided", "greater", "less"]
"""What is claimed against the null: the effect differs from it, is greater, or is less."""

_SMALLEST: Final = 5e-324


class HypothesisTest(msgspec.Struct, frozen=True):
    """A test statistic and the logarithm of its p-value.

    Raises InvalidInput if the logarithm is positive or not a number.
    """

    statistic: float
    log_p_value: float

    def __post_init__(self) -> None:
        if not self.log_p_value <= 0:
            raise InvalidInput(f"log_p_value must be at most 0, got {self.log_p_value:g}")

    @property
    def p_value(self) -> float:
        """The p-value in (0, 1]. Below the smallest double it is that double: never 0."""
        return max(math.exp(self.log_p_value), _SMALLEST)


class Estimate(msgspec.Struct, frozen=True):
    """A value, its standard error, and the degrees of freedom of that error (infinite: normal).

    Interval and test are two sides of one rule: a two-sided test rejects a null at alpha exactly if
    the null lies outside the interval. Both hold at one look that was fixed before the data were
    seen, and for means of many units by the central limit theorem: degrees of freedom are
    Satterthwaite's and do not repair skewness.

    Worked by hand: 1.0 with standard error 0.5 has the normal interval 1 -+ 1.96 * 0.5 =
    [0.02, 1.98].

    Raises InvalidInput if something is not finite or the standard error is negative. Raises
    InsufficientData if the standard error is 0 or no degree of freedom is left. (Observations
    without any spread carry no information about the error.)
    """

    value: float
    standard_error: float
    degrees_of_freedom: float = math.inf

    def __post_init__(self) -> None:
        checks.finite(self.value, "value")
        checks.not_negative(self.standard_error, "standard_error")
        if not self.standard_error:
            raise InsufficientData("the observations have no spread, so nothing says how sure they make us")
        if not self.degrees_of_freedom > 0:
            raise InsufficientData(f"needs a degree of freedom, has {self.degrees_of_freedom:g}")

    @classmethod
    def of_independent(cls, value: float, parts: Iterable[tuple[float, float]]) -> "Estimate":
        """Return an estimate whose error variance is a sum of independent parts.

        A part is (variance, degrees of freedom). The degrees of freedom are those of Welch and
        Satterthwaite: (sum v)^2 / sum (v^2 / df).

        Worked by hand: parts (1, 4) and (1, 4) give variance 2 with 4 / (1/4 + 1/4) = 8 degrees of
        freedom.

        Source: Satterthwaite (1946), Biometrics Bulletin 2(6), eq. 17.
        """
        known = [(variance, freedom) for variance, freedom in parts if variance > 0]
        total = sum(variance for variance, _ in known)
        if not total:
            raise InsufficientData("the observations have no spread, so nothing says how sure they make us")
        uncertainty = sum((variance / total) ** 2 / freedom for variance, freedom in known)
        return cls(value, math.sqrt(total), 1 / uncertainty if uncertainty else math.inf)

    @property
    def variance(self) -> float:
        """The square of the standard error."""
        return self.standard_error**2

    def __neg__(self) -> "Estimate":
        return Estimate(-self.value, self.standard_error, self.degrees_of_freedom)

    def __sub__(self, other: "Estimate") -> "Estimate":
        """Return the difference of two *independent* estimates, such as those of two arms."""
        return self.of_independent(
            self.value - other.value,
            [(self.variance, self.degrees_of_freedom), (other.variance, other.degrees_of_freedom)],
        )

    def quantile(self, probability: float) -> float:
        """Return the quantile of Student's t, or of the normal, that belongs to this estimate."""
        checks.open_unit(probability, "probability")
        if math.isinf(self.degrees_of_freedom):
            return float(special.ndtri(probability))
        return float(special.stdtrit(self.degrees_of_freedom, probability))

    def interval(self, *, alpha: float) -> Interval:
        """Return the two-sided interval for one planned look.

        It misses the truth with probability alpha.
        """
        checks.open_unit(alpha, "alpha")
        radius = -self.quantile(alpha / 2) * self.standard_error
        return Interval(self.value - radius, self.value + radius)

    def lower_bound(self, *, alpha: float) -> float:
        """Return the one-sided bound above which the truth lies, up to error alpha.

        Not inferior by a margin: the bound of (treatment - control) is above -margin.
        """
        return self.value + self.quantile(alpha) * self.standard_error

    def upper_bound(self, *, alpha: float) -> float:
        """Return the one-sided bound below which the truth lies, up to error alpha."""
        return self.value - self.quantile(alpha) * self.standard_error

    def test(self, *, null: float = 0.0, alternative: Alternative = "two-sided") -> HypothesisTest:
        """Test whether the truth is `null`.

        For non-inferiority: `null=-margin, alternative="greater"`.
        """
        checks.finite(null, "null")
        statistic = (self.value - null) / self.standard_error
        return tested(statistic, alternative, self.degrees_of_freedom)

    def equivalence_test(self, *, lower: float, upper: float) -> HypothesisTest:
        """Run two one-sided tests: a small p-value says that the truth is within (lower, upper).

        The larger of the two one-sided p-values, with its statistic. It is below alpha exactly if
        the interval at 2 alpha lies within the bounds. Raises InvalidInput unless lower < upper.

        Source: Schuirmann (1987), Journal of Pharmacokinetics and Biopharmaceutics 15(6).
        """
        if not lower < upper:
            raise InvalidInput(f"lower must be below upper, got {lower:g} and {upper:g}")
        above = self.test(null=lower, alternative="greater")
        below = self.test(null=upper, alternative="less")
        return max(above, below, key=lambda side: side.log_p_value)


def tested(statistic: float, alternative: Alternative, degrees_of_freedom: float) -> HypothesisTest:
    """Return the p-value of a standardised statistic.

    It is normal, or Student's t if the degrees of freedom are finite.

    Raises InvalidInput if the statistic is not finite.
    """
    checks.finite(statistic, "statistic")
    match alternative:
        case "two-sided":
            log_p = min(math.log(2) + tails.log_student_upper(abs(statistic), degrees_of_freedom), 0.0)
        case "greater":
            log_p = tails.log_student_upper(statistic, degrees_of_freedom)
        case "less":
            log_p = tails.log_student_upper(-statistic, degrees_of_freedom)
        case _:
            assert_never(alternative)
    return HypothesisTest(statistic, min(log_p, 0.0))


def both_tails(
    statistic: float, log_lower: float, log_upper: float, alternative: Alternative
) -> HypothesisTest:
    """Return an exact test from its two tails.

    They are the logarithms of P(at most what was seen) and P(at least what was seen) under the
    null. Two-sided means twice the smaller tail ("central"), the rule whose inversion is the
    equal-tailed interval.
    """
    match alternative:
        case "two-sided":
            log_p = math.log(2) + min(log_lower, log_upper)
        case "greater":
            log_p = log_upper
        case "less":
            log_p = log_lower
        case _:
            assert_never(alternative)
    return HypothesisTest(statistic, min(log_p, 0.0))
