"""Normal mixtures, the basis of the mixture SPRT and the confidence sequences.

Let S be a sum that under the null behaves like a Brownian motion at *intrinsic time* V (its
variance so far). For every slope s, exp(s S - s^2 V / 2) is a martingale with mean 1. Averaging it
over s ~ N(0, 1 / rho) gives

    M = sqrt(rho / (V + rho)) exp(S^2 / (2 (V + rho))),

again a martingale, so P(M ever reaches 1 / alpha) <= alpha. Averaging over the positive half of
that normal gives the one-sided M = 2 sqrt(rho / (V + rho)) exp(z^2 / 2) Phi(z), z = S /
sqrt(V + rho), which is a supermartingale for every drift <= 0 too. `rho` says where the test is
strongest, never whether it is valid.

Sources: Robbins (1970), Annals of Mathematical Statistics 41(5); Howard, Ramdas, McAuliffe & Sekhon
(2021), Annals of Statistics 49(2), Propositions 5 and 6 and eq. 21 for the choice of rho; all
derived again here. The one-sided boundary is exact (Newton's method) instead of their closed-form
upper bound.
"""

import math
from functools import lru_cache
from typing import assert_never

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import special

from stats import checks
from stats.eprocess import EValue
from stats.estimate import Alternative
from stats.totals import FloatArray, MeanTotals

# Convex and started above the root, Newton's method needs 5 steps for 1e-15; the rest is a margin.
_NEWTON_STEPS = 10


def log_mixture(
    score: npt.ArrayLike, information: npt.ArrayLike, *, rho: float, alternative: Alternative = "two-sided"
) -> FloatArray:
    """Return the logarithm of M, elementwise.

    A positive `score` is evidence for "greater". `information` is at least 0.

    Worked by hand: S = 3, V = 1, rho = 1, two-sided: log(sqrt(1/2)) + 9 / 4 = 1.9034.
    Raises InvalidInput unless rho is positive.
    """
    checks.positive(rho, "rho")
    total = np.asarray(information, dtype=float) + rho
    z = np.asarray(score, dtype=float) / np.sqrt(total)
    shrinkage = 0.5 * np.log(rho / total)
    match alternative:
        case "two-sided":
            return np.asarray(shrinkage + z**2 / 2)
        case "greater":
            return np.asarray(math.log(2) + shrinkage + z**2 / 2 + special.log_ndtr(z))
        case "less":
            return np.asarray(math.log(2) + shrinkage + z**2 / 2 + special.log_ndtr(-z))
        case _:
            assert_never(alternative)


def boundary(
    information: npt.ArrayLike, *, alpha: float, rho: float, alternative: Alternative = "two-sided"
) -> FloatArray:
    """Return the |sum| at which M reaches 1 / alpha at these intrinsic times >= 0, elementwise.

    Worked by hand: V = 1, rho = 1, alpha = 0.05, two-sided: sqrt(2 (log 2 + 2 log 20)) = 3.6564.
    Raises InvalidInput unless alpha is in (0, 1) and rho positive.
    """
    checks.open_unit(alpha, "alpha")
    checks.positive(rho, "rho")
    total = np.asarray(information, dtype=float) + rho
    wanted = 0.5 * np.log(total / rho) - math.log(alpha)
    if alternative == "two-sided":
        return np.asarray(np.sqrt(2 * total * wanted))
    # Solve z^2 / 2 + log(2 Phi(z)) = wanted, from z = sqrt(2 wanted + 2 log 2), which is above the
    # root.
    z = np.sqrt(2 * (wanted + math.log(2)))
    for _ in range(_NEWTON_STEPS):
        log_cdf = special.log_ndtr(z)
        slope = z + np.exp(-(z**2) / 2 - log_cdf) / math.sqrt(2 * math.pi)
        z = z - (z**2 / 2 + math.log(2) + log_cdf - wanted) / slope
    return np.asarray(z * np.sqrt(total))


def tuned(information: float, *, alpha: float, alternative: Alternative = "two-sided") -> float:
    """Return the rho whose boundary is tightest when the intrinsic time is `information`.

    The width at V is smallest where y = (V + rho) / rho solves y - log y = 1 + 2 log(1 / alpha),
    Lambert's W. A one-sided boundary at alpha is nearly the two-sided one at 2 alpha, and is tuned
    as such.

    Worked by hand: alpha = 0.05 gives y = 9.2119, so rho = V / 8.2119; V = 1000 gives 121.77.
    Raises InvalidInput unless information is positive and alpha is in (0, 1).
    """
    checks.positive(information, "information")
    checks.open_unit(alpha, "alpha")
    error = alpha if alternative == "two-sided" else min(2 * alpha, 0.99)
    return information / (_tightest(error) - 1)


@lru_cache(maxsize=1_024)
def _tightest(error: float) -> float:
    """Return the y of `tuned`; readouts of many metrics ask for the same few levels."""
    return -float(special.lambertw(-(error**2) / math.e, -1).real)


class MixtureSprt(msgspec.Struct, frozen=True):
    """Mixture SPRT for an effect whose estimate is normal with a known variance.

    Under the alternative the effect is N(null, tau^2), or the half of it on the claimed side. `tau`
    is fixed before the start; the minimum effect of interest is a good choice. The e-value is an
    e-process in the estimates at successive looks: keep `AlwaysValid` between looks.

    The guarantee is exact for normal data of known variance, also with any split between arms that
    does not react to the outcomes. With an estimated variance it is asymptotic only: use
    `sequences.difference_sequence`, which enforces a burn-in.

    Raises InvalidInput unless tau is positive.
    Source: Johari et al. (2022), Operations Research 70(3), eq. 7.
    """

    tau: float
    alternative: Alternative = "two-sided"

    def __post_init__(self) -> None:
        checks.positive(self.tau, "tau")

    def evalue(self, estimate: float, variance: float, *, null: float = 0.0) -> EValue:
        """Return the evidence that the effect is not `null` (one-sided: is beyond it).

        Worked by hand: tau = 1, estimate 3 with variance 1: score 3 at information 1, so log e =
        1.9034.
        Raises InvalidInput unless the variance is positive and all is finite.
        """
        checks.positive(variance, "variance")
        checks.finite(estimate, "estimate")
        checks.finite(null, "null")
        score, information = (estimate - null) / variance, 1 / variance
        return EValue(float(log_mixture(score, information, rho=self.tau**-2, alternative=self.alternative)))

    def of_difference(
        self, control: MeanTotals, treatment: MeanTotals, *, sd: float, null: float = 0.0
    ) -> EValue:
        """Return the evidence about mean(treatment) - mean(control).

        Units of both arms have the known standard deviation `sd`.

        Raises InsufficientData if an arm has no unit.
        """
        checks.positive(sd, "sd")
        for arm, name in ((control, "control"), (treatment, "treatment")):
            checks.n_at_least(arm.n, 1, f"{name} units")
        variance = sd**2 * (1 / control.n + 1 / treatment.n)
        return self.evalue(treatment.mean - control.mean, variance, null=null)
