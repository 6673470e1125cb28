"""Student's t tests at every look: exact for normal errors, also with few units.

The sequences of `stats.sequences` estimate the variance and hold for large samples. With normal
errors the test here is exact from the first degree of freedom on: for a mean, a difference of means
with a common variance, or a coefficient of a regression with covariates.

Let t be the usual statistic with v degrees of freedom, and I the information about the effect: the
error variance over the estimate's variance. The mixture over effects d ~ N(0, s^2 / rho), with the
right-invariant prior for all other parameters, gives

    E = sqrt(r) ((1 + t^2 / v) / (1 + r t^2 / v))^((v + 1) / 2),   r = rho / (rho + I),

an e-process whatever the other parameters are. With v to infinity it is `stats.mixture`'s.

Source: Lindon, Ham, Tingley & Bojinov (2022), arXiv 2210.08589, theorem 3.1; derived again here.
"""

import math

import msgspec

from stats import checks
from stats.eprocess import EValue
from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.interval import Interval


class TMixture(msgspec.Struct, frozen=True):
    """A t test that holds at every look, strongest at effects of about sd / sqrt(rho).

    `information` below counts units: n for a mean, n m / (n + m) for two arms, and the treatment's
    squared residuals after the covariates for a regression. Degrees of freedom must be those of the
    pooled error, finite, and not Welch's.

    Raises InvalidInput unless rho is positive.
    """

    rho: float

    def __post_init__(self) -> None:
        checks.positive(self.rho, "rho")

    def evidence(self, estimate: Estimate, information: float, *, null: float = 0.0) -> EValue:
        """Return the evidence against an effect of `null`.

        Worked by hand: t = 2 with 3 degrees of freedom, rho = information, so r = 1/2: sqrt(1/2)
        ((7 / 3) / (5 / 3))^2 = 1.386.

        Raises InvalidInput unless information is positive, InsufficientData for degrees of freedom
        that are not finite.
        """
        r, freedom = self._shrinkage(estimate, information)
        x = ((estimate.value - null) / estimate.standard_error) ** 2 / freedom
        return EValue(0.5 * math.log(r) + 0.5 * (freedom + 1) * (math.log1p(x) - math.log1p(r * x)))

    def interval(self, estimate: Estimate, information: float, *, alpha: float) -> Interval:
        """Return the effects against which the evidence is below 1 / alpha.

        The probability that it ever misses the effect is at most alpha.

        Raises InsufficientData while the data exclude no effect at all; else as `evidence`.
        """
        checks.open_unit(alpha, "alpha")
        r, freedom = self._shrinkage(estimate, information)
        k = math.exp((2 * math.log(alpha) + math.log(r)) / (freedom + 1))
        if k <= r:
            raise InsufficientData(f"{freedom:g} degrees of freedom exclude no effect yet at alpha {alpha:g}")
        radius = estimate.standard_error * math.sqrt(freedom * (1 - k) / (k - r))
        return Interval(estimate.value - radius, estimate.value + radius)

    def _shrinkage(self, estimate: Estimate, information: float) -> tuple[float, float]:
        """Return r and the degrees of freedom."""
        checks.positive(information, "information")
        freedom = estimate.degrees_of_freedom
        if math.isinf(freedom):
            raise InsufficientData("needs finite degrees of freedom: use MixtureSprt for a known variance")
        return self.rho / (self.rho + information), freedom
