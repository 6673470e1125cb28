"""Constant boundary for continuous monitoring to a known horizon: the fast sequential option.

The statistic at information fraction t of the planned maximum is B(t) = Z(t) sqrt(t), a Brownian
motion without drift under the null: the difference of two arms' sums on the scale of its standard
deviation at the horizon. It rejects as soon as B leaves a *constant* boundary b. By reflection
P(max B >= b) = 2 (1 - Phi(b)), so b = z_(1 - alpha/2) one-sided, z_(1 - alpha/4) two-sided. Looking
after every observation or seldom are both valid, seldom with less power. Against group sequential
tests it loses some power at the planned end and needs no spending; against mixture tests it gains
much, but stops being valid at the horizon.

Needed beforehand: the information at the horizon. If the variance is estimated, the test is
asymptotic. The split between arms may be any that does not react to outcomes, as long as fractions
are of information.

Source: Kharitonov et al., "YEAST: Yet Another Sequential Test", arXiv 2406.16523; the reflection
principle. We express its sums by information, so that unequal and moving splits are covered.
P(either side) <= the sum of both: exact to 1e-10 at alpha <= 0.05.
"""

import math
from typing import assert_never

import msgspec
from scipy import optimize, special

from stats import checks
from stats.errors import InvalidInput
from stats.estimate import Alternative

_SMALLEST = 5e-324


class Yeast(msgspec.Struct, frozen=True):
    """The plan: alpha, and what is claimed.

    Worked by hand: alpha 0.05 two-sided: b = z_0.9875 = 2.2414; one-sided z_0.975 = 1.96.
    Raises InvalidInput unless alpha is in (0, 1).
    """

    alpha: float
    alternative: Alternative = "two-sided"

    def __post_init__(self) -> None:
        checks.open_unit(self.alpha, "alpha")

    @property
    def _sides(self) -> int:
        return 2 if self.alternative == "two-sided" else 1

    @property
    def boundary(self) -> float:
        """The constant that |B|, or B on the claimed side, must reach."""
        return -float(special.ndtri(self.alpha / (2 * self._sides)))

    def _towards(self, value: float) -> float:
        match self.alternative:
            case "two-sided":
                return abs(value)
            case "greater":
                return value
            case "less":
                return -value
            case _:
                assert_never(self.alternative)

    def statistic(self, z: float, fraction: float) -> float:
        """Return how far B is on the claimed side; keep the largest of all looks for `p_value`.

        Worked by hand: Z = 3 at half the information: 3 sqrt(1/2) = 2.1213, not yet 2.2414.
        Raises InvalidInput unless fraction is in (0, 1]: beyond the horizon there is no guarantee.
        """
        checks.finite(z, "z")
        if not 0 < fraction <= 1:
            raise InvalidInput(f"fraction must be in (0, 1], got {fraction:g}")
        return self._towards(z) * math.sqrt(fraction)

    def rejects(self, z: float, fraction: float) -> bool:
        """Return whether this look reaches the boundary."""
        return self.statistic(z, fraction) >= self.boundary

    def p_value(self, largest: float) -> float:
        """Return the p-value of the largest statistic so far.

        It is valid at every look up to the horizon, and never 0.
        """
        checks.finite(largest, "largest")
        return max(min(1.0, 2 * self._sides * float(special.ndtr(-largest))), _SMALLEST)

    def power(self, drift: float) -> float:
        """Return the probability of rejecting by the horizon with continuous looks.

        Z has mean `drift` at the horizon: 1 - Phi(b - d) + exp(2 b d) Phi(-b - d) on each claimed
        side.

        Worked by hand: without drift 2 (1 - Phi(b)) per side, which is alpha.
        """
        checks.finite(drift, "drift")
        towards = {"two-sided": (drift, -drift), "greater": (drift,), "less": (-drift,)}[self.alternative]
        return min(1.0, math.fsum(_crossing(self.boundary, each) for each in towards))

    def drift_for(self, power: float) -> float:
        """Return the drift detected with this power.

        Its square over that of the fixed test is the inflation.
        """
        checks.open_unit(power, "power")
        if power <= self.alpha:
            raise InvalidInput(f"power must be above alpha = {self.alpha:g}, got {power:g}")
        sign = -1.0 if self.alternative == "less" else 1.0
        return float(optimize.brentq(lambda x: self.power(sign * x) - power, 0.0, 100.0, xtol=1e-10))


def _crossing(boundary: float, drift: float) -> float:
    reflected = 2 * boundary * drift + float(special.log_ndtr(-boundary - drift))
    return float(special.ndtr(drift - boundary)) + math.exp(reflected)
