"""Proportions at a fixed horizon: one, and the difference of two.

| question | use |
|---|---|
| one proportion, coverage never below 1 - alpha | `exact_interval` |
| difference of two, as an interval | `score_interval`, which agrees with the test |
| difference of two, tested against 0 or a margin | `score_test` |
| few events, at every look | `stats.sequential_counts`, `stats.bounded` |

All hold at one look fixed in advance, for units that are independent.
"""

import math
from collections.abc import Callable
from typing import Final, Literal

from scipy import optimize, special

from stats import checks
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Alternative, HypothesisTest, tested
from stats.interval import Interval
from stats.totals import ProportionTotals

ScoreVariance = Literal["farrington-manning", "miettinen-nurminen"]
"""Miettinen and Nurminen multiply the variance of Farrington and Manning by N / (N - 1)."""

_TIGHT: Final = 1e-300  # brentq then stops on relative precision, also for proportions of 1e-9

_NO_DIFFERENCE: Final = 1e-15  # below it 1 - difference is 1, and both ends of the range are the same


def exact_interval(total: ProportionTotals, *, alpha: float) -> Interval:
    """Clopper and Pearson's interval: coverage is never below 1 - alpha, and often well above.

    Worked by hand: 0 of n is [0, 1 - (alpha / 2)^(1 / n)]; for n = 1 and alpha 0.05, [0, 0.975].

    Raises InsufficientData if n is 0.

    Source: Clopper & Pearson (1934), Biometrika 26(4), as quantiles of Beta distributions.
    """
    checks.open_unit(alpha, "alpha")
    checks.n_at_least(total.n, 1, "units")
    hits, misses = total.successes, total.n - total.successes
    lower = float(special.betaincinv(hits, misses + 1, alpha / 2)) if hits else 0.0
    upper = 1 - float(special.betaincinv(misses, hits + 1, alpha / 2)) if misses else 1.0
    return Interval(lower, upper)


def difference_of_bounds(value: float, around: Interval, other: float, other_around: Interval) -> Interval:
    """Return the interval of value - other from the intervals of two independent estimates.

    Each bound combines the distances of the bounds that matter on its side ("MOVER"). It keeps
    their asymmetry, and is the usual interval where both are symmetric.

    Source: Zou & Donner (2008), Statistics in Medicine 27(10), eq. 5 and 6.
    """
    difference = value - other
    down = math.hypot(value - around.lower, other_around.upper - other)
    up = math.hypot(around.upper - value, other - other_around.lower)
    return Interval(difference - down, difference + up)


def score_test(
    treatment: ProportionTotals,
    control: ProportionTotals,
    *,
    null: float = 0.0,
    alternative: Alternative = "two-sided",
    variance: ScoreVariance = "farrington-manning",
) -> HypothesisTest:
    """Test whether treatment - control is `null`, with the variance that the null implies.

    At `null=0` it is the pooled z test. Non-inferiority by a margin is `null=-margin,
    alternative="greater"`. The proportions under the null are the most likely ones whose difference
    is `null`. Asymptotic: with expected counts below about 5 under the null it is too cautious.

    Worked by hand: 30 of 100 against 20 of 100 pool to 0.25, so z = 0.1 /
    sqrt(2 * 0.25 * 0.75 / 100) = 1.633.

    Raises InsufficientData if an arm is empty, or the null leaves no variance (0 against 0
    successes at 0); InvalidInput unless -1 <= null <= 1.

    Source: Farrington & Manning (1990), Statistics in Medicine 9; Miettinen & Nurminen (1985),
    ibid. 4. We find the root of the likelihood equation itself rather than by the papers'
    trigonometric formula, which loses digits.
    """
    statistic = _score(treatment, control, null, variance)
    if statistic is None:
        raise InsufficientData(
            f"{treatment.successes} of {treatment.n} against {control.successes} of {control.n} "
            f"leave no variance at a difference of {null:g}"
        )
    return tested(statistic, alternative, math.inf)


def score_interval(
    treatment: ProportionTotals,
    control: ProportionTotals,
    *,
    alpha: float,
    variance: ScoreVariance = "miettinen-nurminen",
) -> Interval:
    """Return all differences treatment - control that the two-sided `score_test` does not reject.

    Worked by hand: 0 of n against 0 of n. At a difference d > 0 the most likely proportions are d
    and 0, so z^2 = d^2 / (d (1 - d) / n), and with Farrington and Manning's variance the bounds are
    -+ z^2 / (n + z^2).

    Raises InsufficientData if an arm is empty.

    Source: Miettinen & Nurminen (1985), Statistics in Medicine 4, section 3.
    """
    checks.open_unit(alpha, "alpha")
    quantile = -float(special.ndtri(alpha / 2))
    estimate = treatment.mean - control.mean

    def bound(sign: float) -> float:
        """Return where the standardised distance from the estimate has grown to the quantile."""

        def excess(distance: float) -> float:
            statistic = _score(treatment, control, estimate + sign * distance, variance)
            return -quantile if statistic is None else -sign * statistic - quantile

        farthest = (1 - sign * estimate) * (1 - 1e-6)
        if farthest <= 0 or excess(farthest) <= 0:
            return sign
        distance = optimize.brentq(excess, 0.0, farthest, xtol=_TIGHT, rtol=1e-12)
        return estimate + sign * float(distance)

    return Interval(bound(-1.0), bound(1.0))


def _score(
    treatment: ProportionTotals, control: ProportionTotals, null: float, variance: ScoreVariance
) -> float | None:
    """Return the standardised distance of the observed difference from `null`.

    It is None if there is no variance.
    """
    distance = treatment.mean - control.mean - null
    p, q = restricted_proportions(
        (treatment.successes, treatment.n - treatment.successes),
        (control.successes, control.n - control.successes),
        null,
    )
    error = p * (1 - p) / treatment.n + q * (1 - q) / control.n
    if variance == "miettinen-nurminen":
        n = treatment.n + control.n
        error *= n / (n - 1)
    return distance / math.sqrt(error) if error > 0 else None


def restricted_proportions(
    treatment: tuple[float, float], control: tuple[float, float], difference: float
) -> tuple[float, float]:
    """Return the most likely proportions (p, q) with p - q = difference.

    The counts are (successes, failures) of each arm. They may be expected counts, so not whole. The
    derivative of the log-likelihood in q,

        a / p - b / (1 - p) + c / q - d / (1 - q),

    falls strictly, so it has at most one root. Multiplied by the denominators of those terms that
    are there it is a polynomial of degree 3 at most, finite at both ends, whose sign there says
    whether the root is inside.

    Worked by hand: (0, n) against (0, n) at a difference of 0.1: nothing speaks against q = 0, so
    (0.1, 0).

    Raises InvalidInput unless -1 <= difference <= 1; InsufficientData if an arm is empty.
    """
    if not -1 <= difference <= 1:
        raise InvalidInput(f"a difference of proportions must be in [-1, 1], got {difference:g}")
    checks.n_at_least(math.ceil(min(sum(treatment), sum(control))), 1, "units per arm")
    if abs(difference) < _NO_DIFFERENCE:
        pooled = (treatment[0] + control[0]) / (sum(treatment) + sum(control))
        return pooled, pooled
    slope = _likelihood_slope(treatment, control, difference)
    lowest, highest = max(0.0, -difference), min(1.0, 1.0 - difference)
    if lowest >= highest or slope(lowest) <= 0:
        q = lowest
    elif slope(highest) >= 0:
        q = highest
    else:
        q = float(optimize.brentq(slope, lowest, highest, xtol=_TIGHT, rtol=1e-15))
    return min(max(q + difference, 0.0), 1.0), q


def _likelihood_slope(
    treatment: tuple[float, float], control: tuple[float, float], difference: float
) -> Callable[[float], float]:
    counts = (treatment[0], -treatment[1], control[0], -control[1])

    def slope(q: float) -> float:
        p = q + difference
        terms = [
            (count, denominator)
            for count, denominator in zip(counts, (p, 1 - p, q, 1 - q), strict=True)
            if count
        ]
        product = math.prod
        return sum(
            count * product(denominator for at, (_, denominator) in enumerate(terms) if at != position)
            for position, (count, _) in enumerate(terms)
        )

    return slope
