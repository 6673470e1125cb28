"""Wald's sequential probability ratio test of two named hypotheses.

On average it needs the fewest observations.

Observe until the log likelihood ratio of alternative to null leaves (log(beta / (1 - alpha)),
log((1 - beta) / alpha)). For the errors alpha' and beta' these limits guarantee exactly alpha' <=
alpha / (1 - beta), beta' <= beta / (1 - alpha) and alpha' + beta' <= alpha + beta. Usually both are
below their nominal values, because the ratio jumps beyond its limits. Two-sided, the alternative is
the average of two simple ones (Wald's weight functions), one on each side. Tests read totals; the
first look at which one decides is the end.

The tests decide between the two named hypotheses. Between them nothing is promised but that they
end; there they take longest. A truncated test (`n_max`) ends by force, for the hypothesis that is
more likely then. `operating_characteristic` gives the exact errors that this costs.

Sources: Wald (1945), Annals of Mathematical Statistics 16(2); Wald (1947), Sequential Analysis,
sections 3.2 to 3.5, 3.8 (truncation), 4.1.3 (weight functions). Operating characteristics by
recursion over the observations.
"""

import math
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.polynomial import legendre
from scipy import special

from stats import checks
from stats.errors import InvalidInput
from stats.totals import FloatArray, MeanTotals, ProportionTotals

SprtDecision = Literal["reject", "accept", "continue"]
"""Of the null: reject it, accept it, or observe more."""

_UNDECIDED_MASS: Final = 1e-10
_STEPS_MAX: Final = 2_000_000
_WORK_MAX: Final = 1e9
# Gauss-Legendre nodes per panel, which is at most so many standard deviations of one observation
# wide.
_NODES, _WEIGHTS = legendre.leggauss(12)
_PANEL_SDS: Final = 4.0


class WaldLimits(msgspec.Struct, frozen=True):
    """Errors of both kinds, and where the log likelihood ratio decides.

    Worked by hand: alpha = beta = 0.05 decide at -+ log 19 = 2.944.
    Raises InvalidInput unless both are in (0, 1) and sum to less than 1.
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        checks.open_unit(self.alpha, "alpha")
        checks.open_unit(self.beta, "beta")
        if self.alpha + self.beta >= 1:
            raise InvalidInput(f"alpha + beta must be below 1, got {self.alpha + self.beta:g}")

    @property
    def lower(self) -> float:
        """Log likelihood ratio at or below which the null is accepted."""
        return math.log(self.beta) - math.log1p(-self.alpha)

    @property
    def upper(self) -> float:
        """Log likelihood ratio at or above which the null is rejected."""
        return math.log1p(-self.beta) - math.log(self.alpha)

    def decide(self, log_ratio: float, *, last: bool) -> SprtDecision:
        """Return the decision at this ratio.

        At the last look of a truncated test it cannot be "continue".
        """
        if log_ratio >= self.upper:
            return "reject"
        if log_ratio <= self.lower:
            return "accept"
        if last:
            return "reject" if log_ratio > 0 else "accept"
        return "continue"


class OperatingCharacteristic(msgspec.Struct, frozen=True):
    """The probability of either decision and the mean number of observations under one truth."""

    reject: float
    accept: float
    expected_n: float


class BernoulliSprt(msgspec.Struct, frozen=True):
    """SPRT of a success probability `p0` against one alternative, or two on either side.

    Worked by hand: p0 = 0.5 against 0.75 after 3 of 3: log ratio 3 log 1.5 = 1.216.
    Raises InvalidInput unless all probabilities are in (0, 1), there are one or two alternatives
    that differ from p0 (two: one on each side), and n_max is positive.
    """

    p0: float
    alternatives: tuple[float, ...]
    limits: WaldLimits
    n_max: int | None = None

    def __post_init__(self) -> None:
        for p in (self.p0, *self.alternatives):
            checks.open_unit(p, "probability")
        sides = {math.copysign(1, p - self.p0) for p in self.alternatives if p != self.p0}
        if not 1 <= len(self.alternatives) <= 2 or len(sides) != len(self.alternatives):
            raise InvalidInput("needs one alternative, or one on each side of p0")
        if self.n_max is not None:
            checks.positive(self.n_max, "n_max")

    def log_ratio(self, totals: ProportionTotals) -> float:
        """Log likelihood ratio of the alternative to the null. 0 without observations."""
        return float(self._log_ratios(np.array([float(totals.successes)]), totals.n)[0])

    def decide(self, totals: ProportionTotals) -> SprtDecision:
        """Return the decision after these observations."""
        last = self.n_max is not None and totals.n >= self.n_max
        return self.limits.decide(self.log_ratio(totals), last=last)

    def _log_ratios(self, successes: FloatArray, n: int) -> FloatArray:
        """Return the log likelihood ratio of each number of successes among n."""
        ratios = [
            successes * math.log(p / self.p0) + (n - successes) * (math.log1p(-p) - math.log1p(-self.p0))
            for p in self.alternatives
        ]
        return np.asarray(np.logaddexp.reduce(ratios, axis=0) - math.log(len(ratios)))

    def operating_characteristic(self, p: float) -> OperatingCharacteristic:
        """Compute it exactly if the truth is `p`, by recursion over the number of successes.

        Probabilities are exact to 1e-10. Raises InvalidInput if an untruncated test does not decide
        within 2,000,000 observations.
        """
        checks.open_unit(p, "p")
        alive, first = np.ones(1), 0
        reject = accept = expected = 0.0
        for n in range(1, (self.n_max or _STEPS_MAX) + 1):
            expected += float(alive.sum())
            moved = np.zeros(len(alive) + 1)
            moved[:-1] = alive * (1 - p)
            moved[1:] += alive * p
            ratios = self._log_ratios(np.arange(first, first + len(moved), dtype=float), n)
            if n == self.n_max:
                rejecting = (ratios > 0) | (ratios >= self.limits.upper)
                accepting = ~rejecting
            else:
                rejecting, accepting = ratios >= self.limits.upper, ratios <= self.limits.lower
            reject += float(moved[rejecting].sum())
            accept += float(moved[accepting].sum())
            moved[rejecting | accepting] = 0
            kept = np.flatnonzero(moved)
            if not kept.size or moved.sum() < _UNDECIDED_MASS:
                return OperatingCharacteristic(reject, accept, expected)
            alive, first = moved[kept[0] : kept[-1] + 1], first + int(kept[0])
        raise InvalidInput(f"the test is not decided within {_STEPS_MAX} observations at p = {p:g}")

    def wald_approximation(self, p: float) -> OperatingCharacteristic:
        """Return Wald's closed form for one alternative.

        It assumes that the ratio stops exactly on its limits.

        Worked by hand: 0.1 against 0.12 at (0.05, 0.20) expects 673.0 observations under the null.
        Raises InvalidInput if there are two alternatives, or the mean step at `p` is 0.
        """
        checks.open_unit(p, "p")
        if len(self.alternatives) != 1:
            raise InvalidInput("Wald's approximation is for one alternative")
        p1 = self.alternatives[0]
        up, down = math.log(p1 / self.p0), math.log1p(-p1) - math.log1p(-self.p0)
        mean_step = p * up + (1 - p) * down
        # The h other than 0 for which E[ratio^h] = 1: 1 under the null, -1 under the alternative.
        h = _fundamental_exponent(p, up, down)
        lower, upper = self.limits.lower, self.limits.upper
        reject = -math.expm1(h * lower) / (math.exp(h * upper) - math.exp(h * lower))
        return OperatingCharacteristic(
            reject, 1 - reject, (reject * upper + (1 - reject) * lower) / mean_step
        )


def _fundamental_exponent(p: float, up: float, down: float) -> float:
    mean = p * up + (1 - p) * down
    if abs(mean) < 1e-12:
        raise InvalidInput(f"the ratio does not drift at p = {p:g}, where Wald's approximation is 0 / 0")
    # log E[exp(h step)] is convex, 0 at h = 0 with slope `mean`: the other root is opposite to the
    # slope.
    inner, outer = -math.copysign(1e-9, mean), -math.copysign(1.0, mean)

    def log_moment(h: float) -> float:
        return float(np.logaddexp(math.log(p) + h * up, math.log1p(-p) + h * down))

    while log_moment(outer) < 0:
        outer *= 2
    for _ in range(200):
        middle = (inner + outer) / 2
        if log_moment(middle) < 0:
            inner = middle
        else:
            outer = middle
    return outer


class NormalSprt(msgspec.Struct, frozen=True):
    """SPRT of a normal mean, the standard deviation being known: `null` against `null + effect`.

    Two-sided against `null + effect` and `null - effect` in equal parts.

    Worked by hand: null 0, effect 1, sd 1 after 4 observations with mean 1: log ratio 4 (1 - 1/2) =
    2.
    Raises InvalidInput unless effect is finite and not 0, sd positive and n_max positive.
    """

    null: float
    effect: float
    sd: float
    limits: WaldLimits
    two_sided: bool = False
    n_max: int | None = None

    def __post_init__(self) -> None:
        checks.finite(self.null, "null")
        checks.positive(abs(self.effect), "effect")
        checks.positive(self.sd, "sd")
        if self.n_max is not None:
            checks.positive(self.n_max, "n_max")

    @property
    def _step(self) -> float:
        return abs(self.effect) / self.sd

    def log_ratio(self, totals: MeanTotals) -> float:
        """Log likelihood ratio of the alternative to the null. 0 without observations."""
        step = self._step
        score = totals.n * (totals.mean - self.null) / self.sd * math.copysign(1, self.effect)
        if self.two_sided:
            average = float(np.logaddexp(step * score, -step * score)) - math.log(2)
            return average - totals.n * step**2 / 2
        return step * score - totals.n * step**2 / 2

    def decide(self, totals: MeanTotals) -> SprtDecision:
        """Return the decision after these observations."""
        last = self.n_max is not None and totals.n >= self.n_max
        return self.limits.decide(self.log_ratio(totals), last=last)

    def _edges(self, n: int) -> list[float]:
        """Return the ends of the intervals in which the test goes on after n observations.

        The intervals are those of the standardised sum.
        """
        last = n == self.n_max
        step, drift = self._step, n * self._step / 2
        lower, upper = (0.0, 0.0) if last else (self.limits.lower, self.limits.upper)
        if not self.two_sided:
            return [lower / step + drift, upper / step + drift]
        outer = _log_arccosh(upper + n * step**2 / 2) / step
        inner_level = lower + n * step**2 / 2
        if inner_level <= 0:
            return [-outer, outer]
        inner = _log_arccosh(inner_level) / step
        return [-outer, -inner, inner, outer]

    def operating_characteristic(self, mean: float) -> OperatingCharacteristic:
        """Integrate over the sum, observation by observation, to about 1e-8.

        The truth is `mean`.

        The work grows as (sd / effect)^4, two-sided with many more integrals. Raises InvalidInput
        if it would take more than some ten seconds (effects below about 0.05 sd, two-sided 0.1 sd,
        untruncated).
        """
        checks.finite(mean, "mean")
        theta = (mean - self.null) / self.sd * math.copysign(1, self.effect)
        reject = accept = expected = work = 0.0
        nodes, mass, alive = np.zeros(1), np.ones(1), 1.0
        for n in range(1, (self.n_max or _STEPS_MAX) + 1):
            expected += alive
            edges = self._edges(n)
            cdf = mass @ special.ndtr(np.array(edges) - theta - nodes[:, None])
            reject += float(mass @ special.ndtr(nodes + theta - edges[-1]))
            if self.two_sided:
                reject += float(cdf[0])
                accept += float(cdf[2] - cdf[1]) if len(edges) == 4 else 0.0
            else:
                accept += float(cdf[0])
            alive = max(1 - reject - accept, 0.0)
            if alive < _UNDECIDED_MASS or n == self.n_max:
                return OperatingCharacteristic(reject, accept, expected)
            new, weights = _nodes(edges)
            work += len(new) * len(nodes)
            if work > _WORK_MAX:
                raise InvalidInput("the effect is too small for exact integration; use wald_approximation")
            density = mass @ np.exp(-((new - theta - nodes[:, None]) ** 2) / 2) / math.sqrt(2 * math.pi)
            nodes, mass = new, density * weights
        raise InvalidInput(f"the test is not decided within {_STEPS_MAX} observations at mean = {mean:g}")

    def wald_approximation(self, mean: float) -> OperatingCharacteristic:
        """Return Wald's closed form for a one-sided test.

        It assumes that the ratio stops exactly on its limits.

        Worked by hand: alpha = beta = 0.05 under the null expect 2 (0.05 log 19 - 0.95 log 19) /
        -step^2 = 5.30 observations per (sd / effect)^2; the fixed test needs (1.645 + 1.645)^2 =
        10.82.
        Raises InvalidInput for a two-sided test.
        """
        checks.finite(mean, "mean")
        if self.two_sided:
            raise InvalidInput("Wald's approximation is for a one-sided test")
        step = self._step
        theta = (mean - self.null) / self.sd * math.copysign(1, self.effect)
        lower, upper = self.limits.lower, self.limits.upper
        h = 1 - 2 * theta / step
        if abs(h) < 1e-9:  # Midway the ratio has no drift, and the limits of both formulas hold.
            reject = -lower / (upper - lower)
            return OperatingCharacteristic(reject, 1 - reject, -lower * upper / step**2)
        reject = -math.expm1(h * lower) / (math.exp(h * upper) - math.exp(h * lower))
        mean_step = step * theta - step**2 / 2
        return OperatingCharacteristic(
            reject, 1 - reject, (reject * upper + (1 - reject) * lower) / mean_step
        )


def _log_arccosh(log_x: float) -> float:
    """Return the inverse of log cosh at log_x >= 0, without overflow."""
    return log_x + math.log1p(math.sqrt(-math.expm1(-2 * log_x)))


def _nodes(edges: list[float]) -> tuple[FloatArray, FloatArray]:
    """Return Gauss-Legendre nodes and weights.

    The intervals are (edges[0], edges[1]), (edges[2], edges[3]).
    """
    panels = [
        np.linspace(low, high, math.ceil((high - low) / _PANEL_SDS) + 1)
        for low, high in zip(edges[::2], edges[1::2], strict=True)
    ]
    starts = np.concatenate([ends[:-1] for ends in panels])[:, None]
    half = np.concatenate([np.diff(ends) for ends in panels])[:, None] / 2
    return (starts + half * (_NODES + 1)).ravel(), (half * _WEIGHTS).ravel()


class TwoArmSprt(msgspec.Struct, frozen=True):
    """SPRT on the difference of two conversion rates: 0 against `effect`.

    The base rate is unknown.

    The ratio is that of the profile likelihoods: the base rate is fitted under either hypothesis,
    the arms' rates being equal, or differing by exactly `effect`. So it holds for every split
    between the arms, also one that changes, if the change does not react to outcomes; and it never
    explodes, because no fitted effect is in it. Errors are asymptotic, not exact: nominal to within
    simulation at the two hypotheses with splits of 50/50 and 95/5. A true effect between 0 and
    `effect` is accepted or rejected with probabilities between those at the ends.

    Worked by hand: two arms with equal totals of half successes: any effect d lowers both by n
    d^2 / 2, nearly.
    Raises InvalidInput unless effect is in (-1, 1) and not 0, and n_max positive.
    Source: Wald's limits on a profile likelihood ratio; Cox (1963), Sankhya A 25, shows its
    asymptotics.
    """

    effect: float
    limits: WaldLimits
    n_max: int | None = None

    def __post_init__(self) -> None:
        checks.open_unit(abs(self.effect), "effect")
        if self.n_max is not None:
            checks.positive(self.n_max, "n_max")

    def log_ratio(self, control: ProportionTotals, treatment: ProportionTotals) -> float:
        """Return the profile log likelihood ratio of `effect` to 0; 0 while an arm is empty."""
        return float(
            profile_log_ratio(
                control.n, control.successes, treatment.n, treatment.successes, effect=self.effect
            )
        )

    def decide(self, control: ProportionTotals, treatment: ProportionTotals) -> SprtDecision:
        """Return the decision after these observations; `n_max` counts both arms together."""
        last = self.n_max is not None and control.n + treatment.n >= self.n_max
        return self.limits.decide(self.log_ratio(control, treatment), last=last)


def profile_log_ratio(
    control_n: float | FloatArray,
    control_successes: float | FloatArray,
    treatment_n: float | FloatArray,
    treatment_successes: float | FloatArray,
    *,
    effect: float,
) -> FloatArray:
    """Return the profile log likelihood ratio of rates that differ by `effect` to equal rates.

    The result is elementwise.

    The log likelihood is concave in the base rate, so its maximum is found by halving: 60 times, to
    1e-18.
    """
    n_c, s_c, n_t, s_t = (
        np.asarray(each, dtype=float)
        for each in (control_n, control_successes, treatment_n, treatment_successes)
    )
    lower = np.full(np.broadcast_shapes(n_c.shape, n_t.shape), max(0.0, -effect))
    upper = np.full_like(lower, min(1.0, 1.0 - effect))
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(60):
            base = (lower + upper) / 2
            other = base + effect
            slope = _slope(s_c, n_c, base) + _slope(s_t, n_t, other)
            lower, upper = np.where(slope > 0, base, lower), np.where(slope > 0, upper, base)
    base = (lower + upper) / 2
    pooled = (s_c + s_t) / np.maximum(n_c + n_t, 1)
    fitted = _log_likelihood(s_c, n_c, base) + _log_likelihood(s_t, n_t, base + effect)
    equal = _log_likelihood(s_c, n_c, pooled) + _log_likelihood(s_t, n_t, pooled)
    return np.where((n_c > 0) & (n_t > 0), fitted - equal, 0.0)


def _slope(successes: FloatArray, n: FloatArray, p: FloatArray) -> FloatArray:
    return np.where(successes > 0, successes / p, 0) - np.where(n > successes, (n - successes) / (1 - p), 0)


def _log_likelihood(successes: FloatArray, n: FloatArray, p: FloatArray) -> FloatArray:
    inside = np.clip(p, 0.0, 1.0)
    return np.asarray(special.xlogy(successes, inside) + special.xlog1py(n - successes, -inside))
