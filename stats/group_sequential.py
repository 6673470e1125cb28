"""Group sequential tests with alpha spending: a few looks, a known maximum of information.

The statistics Z_k at looks with information fractions t_1 < t_2 < ... have the joint distribution
of B(t_k) / sqrt(t_k) for a Brownian motion B with drift: `drift` is effect * sqrt(information at
t = 1), the mean of Z at the planned end. Boundaries follow from how much alpha may have been spent
by each fraction, so looks may come when they come, as long as their times do not react to the
estimates. Everything is integrated numerically over B, look by look.

Two-sided means two one-sided tests of alpha / 2 each, and spending is applied *per side*: the
O'Brien-Fleming type is 2 - 2 Phi(z_(1 - alpha/4) / sqrt(t)) per side, as in gsDesign and rpact.
(The other convention puts alpha itself in it, 2 - 2 Phi(z_(1 - alpha/2) / sqrt(t)) for both sides
together, and spends more early.) The Pocock type is (alpha / 2) log(1 + (e - 1) t). Neither equals
the classical boundary of that name exactly. `PowerFamily` and `HwangShihDeCani` have a parameter
that moves alpha between early and late looks.

Not covered:
* stopping for futility
* going on after a crossed boundary and taking the last statistic as if it had not been crossed
* more information than planned (the fraction is then spent at 1)

Sources: Lan & DeMets (1983), Biometrika 70(3); Jennison & Turnbull (2000), Group Sequential
Methods, chapters 7 to 9 and 19; Armitage, McPherson & Rowe (1969), JRSS A 132 for the recursion;
Kim & DeMets (1987), Biometrika 74(1), for the power family; Hwang, Shih & DeCani (1990), Statistics
in Medicine 9(12).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Final, Literal, assert_never

import msgspec
import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy import optimize, special

from stats import checks
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Alternative
from stats.interval import Interval


class PowerFamily(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="power"):
    """Spending of alpha t^rho: evenly with rho = 1, and later the larger rho is.

    Raises InvalidInput unless rho is in [0.1, 50].
    """

    rho: float = 2.0

    def __post_init__(self) -> None:
        checks.within(self.rho, 0.1, 50, "rho")

    def __str__(self) -> str:
        return f"power:{self.rho:g}"


class HwangShihDeCani(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hwang-shih-decani"
):
    """Spending of alpha (1 - exp(-gamma t)) / (1 - exp(-gamma)).

    -4 is close to O'Brien-Fleming, 1 to Pocock, and 0 spends evenly. Raises InvalidInput unless
    gamma is in [-40, 40].
    """

    gamma: float = -4.0

    def __post_init__(self) -> None:
        checks.within(self.gamma, -40, 40, "gamma")

    def __str__(self) -> str:
        return f"hwang-shih-decani:{self.gamma:g}"


Spending = Literal["obrien-fleming", "pocock"] | PowerFamily | HwangShihDeCani
"""How alpha is spent. O'Brien-Fleming spends nearly all of it late, Pocock about evenly."""

_NODES, _WEIGHTS = legendre.leggauss(16)
_PANEL_SDS: Final = 2.0
_FAR_SDS: Final = 9.0
_LOOKS_MAX: Final = 200
# Closer looks are one look; the integration would need ever more nodes between them.
_STEP_MIN: Final = 1e-3
# A boundary that far out is never reached: less than 1e-200 is to be spent there.
_FAR_Z: Final = 30.0


class _State:
    """Sub-density of B(t) on paths that have not left yet, as masses at nodes."""

    def __init__(self, drift: float) -> None:
        self.drift, self.time = drift, 0.0
        self.nodes, self.mass = np.zeros(1), np.ones(1)

    def beyond(self, time: float, z: float, side: int) -> float:
        """Return P(still inside before `time`, and then side * Z >= z)."""
        step = time - self.time
        distance = z * math.sqrt(time) - side * (self.nodes + self.drift * step)
        return float(self.mass @ special.ndtr(-distance / math.sqrt(step)))

    def advance(self, time: float, lower_z: float, upper_z: float) -> None:
        """Go to `time` and drop the paths that are outside (lower_z, upper_z) there."""
        step, root = time - self.time, math.sqrt(time)
        sd = math.sqrt(step)
        low = max(lower_z * root, self.drift * time - _FAR_SDS * root)
        high = min(upper_z * root, self.drift * time + _FAR_SDS * root)
        high = max(high, low)
        ends = np.linspace(low, high, max(math.ceil((high - low) / (_PANEL_SDS * sd)), 1) + 1)
        half = np.diff(ends)[:, None] / 2
        nodes = (ends[:-1, None] + half * (_NODES + 1)).ravel()
        distance = (nodes - self.nodes[:, None] - self.drift * step) / sd
        density = self.mass @ np.exp(-(distance**2) / 2) / (sd * math.sqrt(2 * math.pi))
        self.nodes, self.mass, self.time = nodes, density * (half * _WEIGHTS).ravel(), time


def spent(fraction: float, *, alpha: float, spending: Spending) -> float:
    """Return the part of a one-sided `alpha` spent by this fraction of the information.

    Worked by hand: Pocock type at half the information: alpha log(1 + (e - 1) / 2) = 0.620 alpha.
    Raises InvalidInput unless alpha is in (0, 1) and fraction positive.
    """
    checks.open_unit(alpha, "alpha")
    checks.positive(fraction, "fraction")
    time = min(fraction, 1.0)
    match spending:
        case "obrien-fleming":
            return 2 * float(special.ndtr(special.ndtri(alpha / 2) / math.sqrt(time)))
        case "pocock":
            return alpha * math.log1p((math.e - 1) * time)
        case PowerFamily(rho=rho):
            return alpha * float(time**rho)
        case HwangShihDeCani(gamma=0):
            return alpha * time
        case HwangShihDeCani(gamma=gamma):
            return alpha * math.expm1(-gamma * time) / math.expm1(-gamma)
        case _:
            assert_never(spending)


def spending_of(text: str) -> Spending:
    """Read a spending function: `obrien-fleming`, `pocock`, `power:RHO` or `hwang-shih-decani:GAMMA`.

    The parameters have defaults: `power` is `power:2`, `hwang-shih-decani` has gamma -4. Raises
    InvalidInput for any other text.
    """
    name, _, parameter = text.partition(":")
    try:
        match name:
            case "obrien-fleming" if not parameter:
                return "obrien-fleming"
            case "pocock" if not parameter:
                return "pocock"
            case "power":
                return PowerFamily(float(parameter)) if parameter else PowerFamily()
            case "hwang-shih-decani":
                return HwangShihDeCani(float(parameter)) if parameter else HwangShihDeCani()
    except ValueError:
        pass
    raise InvalidInput(
        "spending must be obrien-fleming, pocock, power:RHO with RHO in [0.1, 50], or "
        f"hwang-shih-decani:GAMMA with GAMMA in [-40, 40]; got {text!r}"
    )


class Paths:
    """Crossings of the same boundaries at any number of drifts, after one pass without drift.

    A path without drift counts exp(d x - d^2 t / 2) times under the drift d, where x is where it is
    at time t (Girsanov), so what is left inside at each look is worked out once. `drift_for` is the
    inverse of `power` to nearly all digits.

    Raises InvalidInput unless fractions increase and there is one bound for each.
    """

    def __init__(
        self, fractions: Sequence[float], bounds: Sequence[float], *, alternative: Alternative = "two-sided"
    ) -> None:
        _check_fractions(fractions)
        if len(bounds) != len(fractions):
            raise InvalidInput(f"needs one bound per look, got {len(bounds)} for {len(fractions)}")
        self.fractions = tuple(fractions)
        self._ends = [_inside(bound, alternative) for bound in bounds]
        self._sign = -1.0 if alternative == "less" else 1.0
        state = _State(0.0)
        self._before: list[tuple[float, NDArray[np.float64], NDArray[np.float64]]] = []
        for fraction, (low, high) in zip(fractions, self._ends, strict=True):
            self._before.append((state.time, state.nodes, state.mass))
            state.advance(fraction, low, high)

    def leaving(self, drift: float) -> tuple[float, ...]:
        """Return for each look the probability that the statistic first crosses a bound there.

        Both bounds count.
        """
        checks.finite(drift, "drift")
        return tuple(self._leaving(np.array([drift]))[:, 0].tolist())

    def power(self, drift: float) -> float:
        """Return the probability that the statistic crosses either bound at any look.

        Worked by hand: one look at 1 with bound 1.96: 0.05 without drift, 0.8 at the drift 2.8.
        """
        return min(math.fsum(self.leaving(drift)), 1.0)

    def powers(self, drifts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `power` at each drift, shape (n,)."""
        found: NDArray[np.float64] = np.minimum(self._leaving(drifts).sum(axis=0), 1.0)
        return found

    def drift_for(self, power: float) -> float:
        """Return the drift (in the direction of the alternative) that is found with this power.

        Raises InvalidInput unless power is between the probability of leaving without drift and 1.
        """
        least = self.power(0.0)
        if not least < power < 1:
            raise InvalidInput(f"power must be above {least:g} and below 1, got {power:g}")
        found = optimize.brentq(
            lambda drift: self.power(self._sign * drift) - power, 0.0, 40.0, xtol=1e-13, rtol=1e-14
        )
        return self._sign * float(found)

    def expected_fraction(self, drift: float) -> float:
        """Return the mean information at the end, as a fraction of the planned one."""
        leaving = self.leaving(drift)
        stopped = math.fsum(f * p for f, p in zip(self.fractions[:-1], leaving[:-1], strict=True))
        return stopped + self.fractions[-1] * max(1 - math.fsum(leaving[:-1]), 0.0)

    def _leaving(self, drifts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probabilities of leaving, shape (looks, drifts)."""
        found = np.zeros((len(self._ends), len(drifts)))
        for look, (time, nodes, mass) in enumerate(self._before):
            fraction, (low, high) = self.fractions[look], self._ends[look]
            # The weights of paths and where their next step begins, shape (drifts, nodes).
            weighed = mass * np.exp(drifts[:, None] * nodes - drifts[:, None] ** 2 * time / 2)
            begin = nodes + drifts[:, None] * (fraction - time)
            for bound, side in ((high, 1), (-low, -1)):
                if bound < math.inf:
                    distance = (bound * math.sqrt(fraction) - side * begin) / math.sqrt(fraction - time)
                    found[look] += (weighed * special.ndtr(-distance)).sum(axis=1)
        return found


def _inside(bound: float, alternative: Alternative) -> tuple[float, float]:
    """Return the values of Z between which the test continues."""
    return (-bound if alternative != "greater" else -math.inf), (bound if alternative != "less" else math.inf)


class GroupSequentialPlan(msgspec.Struct, frozen=True):
    """A design fixed before the start: alpha, the side or sides, and how alpha is spent.

    `fractions` below are those of the looks so far, or of those planned: increasing, positive;
    beyond 1 there may be the last one only.

    Worked by hand: a single look at fraction 1 is the fixed test: two-sided at 0.05 its boundary is
    1.95996.
    Raises InvalidInput unless alpha is in (0, 1).
    """

    alpha: float
    spending: Spending = "obrien-fleming"
    alternative: Alternative = "two-sided"

    def __post_init__(self) -> None:
        checks.open_unit(self.alpha, "alpha")

    @property
    def _side_alpha(self) -> float:
        return self.alpha / 2 if self.alternative == "two-sided" else self.alpha

    def boundaries(self, fractions: Sequence[float]) -> tuple[float, ...]:
        """Return the |Z| at which each look rejects; infinite if a look has nothing to spend."""
        _check_fractions(fractions)
        state, bounds, before = _State(0.0), [], 0.0
        for fraction in fractions:
            target = spent(fraction, alpha=self._side_alpha, spending=self.spending)
            bounds.append(_boundary(state, fraction, target - before))
            before = target
            # Without drift "less" is the mirror image of "greater".
            state.advance(fraction, -bounds[-1] if self.alternative == "two-sided" else -math.inf, bounds[-1])
        return tuple(bounds)

    def paths(self, fractions: Sequence[float]) -> Paths:
        """Return the crossings of this plan's boundaries.

        They give power, drift and expected information.
        """
        return Paths(fractions, self.boundaries(fractions), alternative=self.alternative)

    def adjusted_p_value(self, z: float, fractions: Sequence[float]) -> float:
        """Return the stage-wise p-value of ending at the last of these looks with statistic `z`.

        Ending earlier is more extreme, whatever Z was. At most alpha exactly if the test rejected
        at that look. Two-sided: twice the smaller side.
        """
        checks.finite(z, "z")
        regions = self._regions(fractions)
        upper = _more_extreme(z, fractions, regions, drift=0.0, side=1)
        lower = _more_extreme(-z, fractions, regions, drift=0.0, side=-1)
        match self.alternative:
            case "two-sided":
                return min(1.0, 2 * min(upper, lower))
            case "greater":
                return upper
            case "less":
                return lower
            case _:
                assert_never(self.alternative)

    def _regions(self, fractions: Sequence[float]) -> list[tuple[float, float]]:
        return [_inside(bound, self.alternative) for bound in self.boundaries(fractions)]

    def median_unbiased(self, z: float, fractions: Sequence[float], *, information: float) -> float:
        """Return the effect under which this end, or a more extreme one, has probability 1/2.

        The order is stage-wise.

        `information` is 1 / variance of the estimate at fraction 1. Raises InsufficientData if the
        test would have ended at an earlier look under every effect that explains `z`.
        """
        return self._effect_at(z, fractions, information, 0.5)

    def adjusted_interval(self, z: float, fractions: Sequence[float], *, information: float) -> Interval:
        """Return the interval for the effect that belongs to `adjusted_p_value`.

        Use it only after the end.
        """
        side = self._side_alpha
        lower = self._effect_at(z, fractions, information, side) if self.alternative != "less" else -math.inf
        upper = (
            self._effect_at(z, fractions, information, 1 - side)
            if self.alternative != "greater"
            else math.inf
        )
        return Interval(lower, upper)

    def _effect_at(
        self, z: float, fractions: Sequence[float], information: float, probability: float
    ) -> float:
        checks.finite(z, "z")
        checks.positive(information, "information")
        regions = self._regions(fractions)

        def excess(drift: float) -> float:
            return _more_extreme(z, fractions, regions, drift=drift, side=1) - probability

        middle = z / math.sqrt(fractions[-1])
        reach = 10 / math.sqrt(fractions[0])
        if excess(middle - reach) * excess(middle + reach) > 0:
            raise InsufficientData(
                f"z = {z:.3g} at fraction {fractions[-1]:g} cannot come without an end at an earlier look"
            )
        return float(optimize.brentq(excess, middle - reach, middle + reach, xtol=1e-10)) / math.sqrt(
            information
        )


def _more_extreme(
    z: float, fractions: Sequence[float], regions: Sequence[tuple[float, float]], *, drift: float, side: int
) -> float:
    """Return P(left on this side earlier, or side * Z >= z at the last look)."""
    state, total = _State(drift), 0.0
    for fraction, (low, high) in zip(fractions[:-1], regions[:-1], strict=True):
        edge = high if side > 0 else -low
        total += state.beyond(fraction, edge, side) if edge < math.inf else 0.0
        state.advance(fraction, low, high)
    return total + state.beyond(fractions[-1], z, side)


def _boundary(state: _State, fraction: float, to_spend: float) -> float:
    def excess(z: float) -> float:
        return state.beyond(fraction, z, 1) - to_spend

    if to_spend <= 0 or excess(_FAR_Z) > 0:
        return math.inf
    return float(optimize.brentq(excess, -_FAR_Z, _FAR_Z, xtol=1e-11))


def _check_fractions(fractions: Sequence[float]) -> None:
    if not 1 <= len(fractions) <= _LOOKS_MAX:
        raise InvalidInput(f"needs 1 to {_LOOKS_MAX} looks, got {len(fractions)}")
    for fraction in fractions:
        checks.positive(fraction, "fraction")
    if any(later * (1 - _STEP_MIN) < earlier for earlier, later in itertools.pairwise(fractions)):
        raise InvalidInput("fractions must increase from look to look, by a thousandth at least")
    if len(fractions) > 1 and fractions[-2] >= 1:
        raise InvalidInput("all alpha is spent at fraction 1: there is no look after it")
