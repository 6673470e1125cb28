"""Sequential designs: power and its inverse, relative to the fixed test of the same units.

The fixed test of some units finds an effect with a power that `stats.planning` knows. That power
stands for a drift: the mean of the test statistic at the end. The same drift has another, smaller
power under a sequential design. Both maps are strictly increasing, so effect, power and units are
exact inverses under every design.
"""

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Final, Literal, assert_never

import msgspec
import numpy as np
from scipy import optimize, special

from stats import mixture
from stats.estimate import Alternative
from stats.group_sequential import GroupSequentialPlan, Paths, Spending
from stats.yeast import Yeast

Design = Literal["fixed", "group_sequential", "yeast", "always_valid"]

_LOOKS_FINE: Final = 60
"""Number of looks that stand for continuous monitoring; more would add less than 0.01 of power."""
_DRIFT_MAX: Final = 40.0


class SequentialDesign(msgspec.Struct, frozen=True, dict=True):
    """A design at the level `alpha` of one comparison. "greater" is non-inferiority.

    `looks` and `spending` are of group sequential designs.
    """

    kind: Design
    alpha: float
    side: Alternative
    looks: int
    spending: Spending

    def power(self, drift: float) -> float:
        """Return the power if the statistic at the end has the mean `drift` >= 0."""
        match self.kind:
            case "fixed":
                return self._fixed_power(drift)
            case "yeast":
                return Yeast(self.alpha, self.side).power(drift)
            case "group_sequential" | "always_valid":
                return self._paths.power(drift)
            case _:
                assert_never(self.kind)

    def drift_for(self, power: float) -> float:
        """Return the drift that is found with this power, which must be above `alpha`."""
        return _drift_for(self, power)

    def fixed_power_for(self, power: float) -> float:
        """Return the power of the fixed test at the units with which this design has `power`."""
        return power if self.kind == "fixed" else self._fixed_power(self.drift_for(power))

    def power_from(self, fixed_power: float) -> float:
        """Return the power of this design at the units with which the fixed test has `fixed_power`."""
        return fixed_power if self.kind == "fixed" else self.power(self.drift_from(fixed_power))

    def powers_from(self, fixed_powers: Sequence[float]) -> list[float]:
        """Return `power_from` of each."""
        if self.kind in ("fixed", "yeast"):
            return [self.power_from(power) for power in fixed_powers]
        drifts = np.array([self.drift_from(power) for power in fixed_powers])
        return list(self._paths.powers(drifts).tolist())

    def drift_from(self, fixed_power: float) -> float:
        """Return the drift at which the fixed test has this power, between 0 and `_DRIFT_MAX`."""
        if fixed_power >= self._fixed_power(_DRIFT_MAX):
            return _DRIFT_MAX
        if fixed_power <= self._fixed_power(0.0):
            return 0.0
        return float(
            optimize.brentq(
                lambda drift: self._fixed_power(drift) - fixed_power, 0.0, _DRIFT_MAX, xtol=1e-13, rtol=1e-14
            )
        )

    def inflation(self, power: float) -> float:
        """Return the greatest units over those of the fixed test with the same power."""
        return 1.0 if self.kind == "fixed" else (self.drift_for(power) / self.drift_from(power)) ** 2

    def expected_share(self, drift: float) -> float:
        """Return the mean share of the greatest units that is used at this drift."""
        return 1.0 if self.kind == "fixed" else self._paths.expected_fraction(drift)

    def _fixed_power(self, drift: float) -> float:
        if self.side == "two-sided":
            z = float(special.ndtri(self.alpha / 2))
            return float(special.ndtr(drift + z) + special.ndtr(z - drift))
        return float(special.ndtr(drift + float(special.ndtri(self.alpha))))

    @cached_property
    def _paths(self) -> Paths:
        return _paths_of(self)


@lru_cache(maxsize=1_024)
def _drift_for(design: SequentialDesign, power: float) -> float:
    return float(
        optimize.brentq(lambda drift: design.power(drift) - power, 0.0, _DRIFT_MAX, xtol=1e-13, rtol=1e-14)
    )


@lru_cache(maxsize=128)
def _paths_of(design: SequentialDesign) -> Paths:
    """Return the boundaries of a design, at its looks or at `_LOOKS_FINE` that stand for all time."""
    alpha, side = design.alpha, design.side
    looks = design.looks if design.kind == "group_sequential" else _LOOKS_FINE
    fractions = [(look + 1) / looks for look in range(looks)]
    match design.kind:
        case "group_sequential":
            bounds = list(GroupSequentialPlan(alpha, design.spending, side).boundaries(fractions))
        case "yeast":
            boundary = Yeast(alpha, side).boundary
            bounds = [boundary / math.sqrt(fraction) for fraction in fractions]
        case "always_valid":
            rho = mixture.tuned(1.0, alpha=alpha, alternative=side)
            limits = mixture.boundary(fractions, alpha=alpha, rho=rho, alternative=side)
            bounds = [
                float(limit) / math.sqrt(fraction) for limit, fraction in zip(limits, fractions, strict=True)
            ]
        case _:
            raise ValueError(f"a {design.kind} design has no boundaries before its end")
    return Paths(fractions, bounds, alternative=side)
