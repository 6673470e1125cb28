"""Posteriors of the arms' mean rewards: independent, of three families.

Every family answers the same questions of the quadrature in `bandits.best` (`Arms`), on a scale t
that is monotone in the mean reward and on which its densities are smooth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.random import Generator
from scipy import special

from bandits.totals import ArmTotals, FloatArray
from stats import checks
from stats.errors import InvalidInput
from stats.totals import MeanTotals, RewardTotals

PARAMETER_MIN: Final = 1e-3
PARAMETER_MAX: Final = 1e12
"""Between these bounds, all that is computed from a posterior keeps its stated accuracy."""

DEGREES_MIN: Final = 2.0
"""Below, a Student t density has no variance, and hardly a mean."""

ANSWERS_MAX: Final = 1e9
"""Greatest number of yes-or-no answers that an arm counts for, unless it has more rewards."""

_DISPERSION_PRIOR: Final = 1.0
"""Squared deviations of the prior: those of four answers whose mean is 1/2."""

_ROUNDING: Final = 1e-9
"""Relative rounding error of sums in binary64, with a wide margin."""

# A density ends where it has fallen by exp(-25): what lies beyond is below 1e-10 of the mass.
_FALL_END: Final = 25.0
_FALLS: Final = _FALL_END * np.array([0.0625, 0.25, 0.5625, 1.0])
# Where a small alpha or beta makes long tails, the bend between them still has the width of the
# logistic.
_BEND: Final = np.array([2.0, 6.0, 20.0])
# A Student t has polynomial tails: its panels may grow fourfold, and end where d f(d) is below
# 1e-8.
_PANEL_GROWTH: Final = np.log(4.0)
_POLYNOMIAL_END: Final = 8 * np.log(10.0)


class Arms(Protocol):
    """Independent posteriors of the arms' mean rewards, on a scale t shared by all of them.

    `edges` are the points, ascending, shape (n_arms, odd), where each arm's panels begin and end.
    The middle one is the peak of the density of t, which stands at the mean. The mass outside is
    negligible, and between two edges a polynomial of degree 9 follows the density. `value` maps t
    to the mean reward, and `slope` is its derivative. `bends` are points between which `value`
    needs panels of its own.
    """

    @property
    def mean(self) -> FloatArray:
        """Posterior means, shape (n_arms,)."""

    @property
    def variance(self) -> FloatArray:
        """Posterior variances of the mean rewards, shape (n_arms,)."""

    @property
    def bends(self) -> FloatArray:
        """Points of t that panels must not straddle when `value` is integrated."""

    def edges(self) -> FloatArray:
        """Return where each arm's panels begin and end, shape (n_arms, edges)."""

    def log_density(self, t: FloatArray) -> FloatArray:
        """Return the log density relative to its peak; `t` has the shape (p, n) or (k, p, n)."""

    def value(self, t: FloatArray) -> FloatArray:
        """Return the mean reward at t."""

    def slope(self, t: FloatArray) -> FloatArray:
        """Return the derivative of `value`."""

    def probability_below(self, value: float) -> FloatArray:
        """Return P(mean reward <= value), shape (n_arms,)."""

    def draw(self, rng: Generator, size: int) -> FloatArray:
        """Draw from the posteriors, shape (size, n_arms)."""


@dataclass(frozen=True, slots=True, eq=False)
class BetaArms:
    """Independent Beta(alpha, beta) posteriors of mean rewards; arrays of shape (n_arms,).

    On the scale t = log(x / (1 - x)) a Beta density is log-concave and smooth for every alpha and
    beta, with exponential tails. Relative to its peak, at distance d = |t - peak|, its logarithm is
    exactly

        -(c d + n log(1 + (c / n) (exp(-d) - 1))),   n = alpha + beta, c = alpha left of the peak, beta right,

    a form that loses no digits when n is large and cannot overflow when it is small.

    Raises ValueError unless the shapes agree, there is an arm, and every parameter is within
    [`PARAMETER_MIN`, `PARAMETER_MAX`].
    """

    alpha: FloatArray
    beta: FloatArray

    def __post_init__(self) -> None:
        _check_parameters(self.alpha, self.beta, "alpha and beta")

    @classmethod
    def from_totals(
        cls,
        totals: Sequence[RewardTotals] | ArmTotals,
        *,
        prior_alpha: float | FloatArray = 1.0,
        prior_beta: float | FloatArray = 1.0,
    ) -> "BetaArms":
        """Return the posteriors after rewards in [0, 1]: prior + sum and prior + n - sum.

        A prior may differ by arm. The posterior is exact for rewards of 0 and 1. A fractional
        reward r counts as w r successes and w (1 - r) failures, where w, at least 1, is the number
        of yes-or-no answers that a reward of its arm is worth (`answers_per_reward`). The
        assumption is that a mean has a Beta posterior as narrow as the spread of the arm's rewards
        implies. This is right in the limit of many rewards; with few of them w stays near 1, which
        is never too narrow. Guarantees for Bernoulli rewards do not carry over literally.
        `NormalArms` have tails that allow for a variance that is not known.

        Worked by hand: three rewards 1, 0 and 0.5 are worth w = 8/7 answers each, so under Beta(1,
        1) they give Beta(1 + 12/7, 1 + 12/7).
        """
        arms = ArmTotals.of(totals)
        arms.check_unit_rewards()
        worth = answers_per_reward(arms)
        return cls(prior_alpha + worth * arms.sum, prior_beta + worth * (arms.n - arms.sum))

    @property
    def mean(self) -> FloatArray:
        """Posterior means, shape (n_arms,)."""
        mean: FloatArray = self.alpha / (self.alpha + self.beta)
        return mean

    @property
    def variance(self) -> FloatArray:
        """Posterior variances, shape (n_arms,)."""
        n = self.alpha + self.beta
        variance: FloatArray = (self.alpha / n) * (self.beta / n) / (n + 1)
        return variance

    @property
    def bends(self) -> FloatArray:
        """Points around 0, where the logistic function turns from one tail to the other."""
        return np.array([-12.0, -5.0, -2.0, 0.0, 2.0, 5.0, 12.0])

    def edges(self) -> FloatArray:
        """Return where each arm's panels begin and end on the logit scale."""
        peak = np.log(self.alpha / self.beta)[:, None]
        left = _logit_distances(self.alpha, self.beta)
        right = _logit_distances(self.beta, self.alpha)
        return np.concatenate((peak - left[:, ::-1], peak, peak + right), axis=1)

    def log_density(self, t: FloatArray) -> FloatArray:
        """Return the log density of t = logit(theta) relative to its peak."""
        alpha, beta = self.alpha[:, None, None], self.beta[:, None, None]
        n = alpha + beta
        distance = t - np.log(alpha / beta)
        slope = np.where(distance < 0, alpha, beta)
        distance = np.abs(distance)
        density: FloatArray = -(slope * distance + n * np.log1p(slope / n * np.expm1(-distance)))
        return density

    def value(self, t: FloatArray) -> FloatArray:
        """Return the logistic function."""
        x: FloatArray = 0.5 * (1 + np.tanh(0.5 * t))
        return x

    def slope(self, t: FloatArray) -> FloatArray:
        """Return the logistic density."""
        x = self.value(-np.abs(t))
        slope: FloatArray = x * (1 - x)
        return slope

    def probability_below(self, value: float) -> FloatArray:
        """Return P(theta <= value), shape (n_arms,)."""
        inside = min(max(value, 0.0), 1.0)
        return np.asarray(special.betainc(self.alpha, self.beta, inside), dtype=np.float64)

    def draw(self, rng: Generator, size: int) -> FloatArray:
        """Draw from the posteriors, shape (size, n_arms)."""
        return rng.beta(self.alpha, self.beta, size=(size, len(self.alpha)))


@dataclass(frozen=True, slots=True, eq=False)
class NormalArms:
    """Posteriors of means whose noise has an unknown variance: location + scale x Student t.

    Arrays of shape (n_arms,).

    The scale t is the mean reward itself, counted from the greatest location, so that a large
    common offset costs no digits.

    Raises InvalidInput unless the shapes agree, there is an arm, locations are finite, scales
    positive and finite, and degrees of freedom within [`DEGREES_MIN`, `PARAMETER_MAX`].
    """

    location: FloatArray
    scale: FloatArray
    degrees: FloatArray

    def __post_init__(self) -> None:
        shapes = {self.location.shape, self.scale.shape, self.degrees.shape}
        if len(shapes) != 1 or self.location.ndim != 1 or not self.location.size:
            raise InvalidInput(f"location, scale and degrees must have the shape (n_arms,), got {shapes}")
        if not np.isfinite(self.location).all():
            raise InvalidInput("locations must be finite")
        if not ((self.scale > 0) & np.isfinite(self.scale)).all():
            raise InvalidInput("scales must be positive and finite")
        if not ((self.degrees >= DEGREES_MIN) & (self.degrees <= PARAMETER_MAX)).all():
            raise InvalidInput(f"degrees must be within [{DEGREES_MIN:g}, {PARAMETER_MAX:g}]")

    @classmethod
    def from_totals(
        cls,
        totals: Sequence[MeanTotals],
        *,
        prior_mean: float = 0.5,
        prior_n: float = 1.0,
        prior_shape: float = 1.0,
        prior_scale: float = 0.25,
    ) -> "NormalArms":
        """Return the posteriors of the means under a normal-inverse-gamma prior.

        Rewards may have any range. The noise variance is inverse-gamma(prior_shape, prior_scale),
        and the mean, given it, is normal around prior_mean with the weight of prior_n observations.
        The defaults suit rewards in [0, 1]: they expect the largest variance that these can have.
        For metrics in other units give a prior in those units. If rewards are not normal, the
        posterior of a mean is right in the limit of many observations (Bernstein-von Mises), at the
        rate of the central limit theorem. With rare successes this takes many.

        Worked by hand: rewards 0 and 1 (mean 1/2, squared deviations 1/2) under the defaults: n =
        3, location 1/2, shape 2, scale 1/4 + 1/4 = 1/2, hence t with 4 degrees of freedom and scale
        sqrt((1/2) / (2 x 3)) = 0.2887.

        Source: Murphy (2007), Conjugate Bayesian analysis of the Gaussian distribution, eq. 85-89,
        110.
        """
        n, mean, m2 = (
            np.array([getattr(total, name) for total in totals], dtype=np.float64)
            for name in ("n", "mean", "m2")
        )
        return cls.from_moments(
            n, mean, m2,
            prior_mean=prior_mean, prior_n=prior_n, prior_shape=prior_shape, prior_scale=prior_scale,
        )  # fmt: skip

    @classmethod
    def from_moments(
        cls,
        n: FloatArray,
        mean: FloatArray,
        m2: FloatArray,
        *,
        prior_mean: float = 0.5,
        prior_n: float = 1.0,
        prior_shape: float = 1.0,
        prior_scale: float = 0.25,
    ) -> "NormalArms":
        """Do as `from_totals`, with arrays.

        `n` may be an effective number; `m2` are squared deviations.
        """
        checks.finite(prior_mean, "prior_mean")
        for value, name in ((prior_n, "prior_n"), (prior_scale, "prior_scale")):
            checks.positive(value, name)
        if prior_shape < DEGREES_MIN / 2:
            raise InvalidInput(f"prior_shape must be at least {DEGREES_MIN / 2:g}, got {prior_shape:g}")
        weight = prior_n + n
        location = prior_mean + (n / weight) * (mean - prior_mean)
        shape = prior_shape + n / 2
        spread = prior_scale + 0.5 * m2 + 0.5 * (prior_n * n / weight) * (mean - prior_mean) ** 2
        return cls(location, np.sqrt(spread / (shape * weight)), 2 * shape)

    @property
    def mean(self) -> FloatArray:
        """Posterior means, shape (n_arms,)."""
        return self.location

    @property
    def variance(self) -> FloatArray:
        """Posterior variances, shape (n_arms,); infinite at 2 degrees of freedom."""
        with np.errstate(divide="ignore"):
            variance: FloatArray = self.scale**2 * (1 + 2 / (self.degrees - 2))
        return variance

    @property
    def bends(self) -> FloatArray:
        """No points: the scale is the mean itself."""
        return np.empty(0)

    def edges(self) -> FloatArray:
        """Return where each arm's panels begin and end.

        With d = sqrt(degrees) sinh(u) a density is cosh(u)^-(degrees + 1): equal steps of u are
        equal steps of d where it is nearly normal, and equal factors of d in its polynomial tails.
        """
        fall = np.maximum(_FALL_END, _POLYNOMIAL_END * (1 + 2 / (self.degrees - 1)))
        end = np.arcsinh(np.sqrt(np.expm1(2 * fall / (self.degrees + 1))))
        panels = max(len(_FALLS), int(np.ceil(end.max() / _PANEL_GROWTH)))
        u = end[:, None] * np.linspace(-1, 1, 2 * panels + 1)
        middle = (self.location - self.location.max())[:, None]
        edges: FloatArray = middle + (self.scale * np.sqrt(self.degrees))[:, None] * np.sinh(u)
        return edges

    def log_density(self, t: FloatArray) -> FloatArray:
        """Return the log density of the mean relative to its peak."""
        location, scale, degrees = (
            array[:, None, None] for array in (self.location - self.location.max(), self.scale, self.degrees)
        )
        density: FloatArray = -0.5 * (degrees + 1) * np.log1p(((t - location) / scale) ** 2 / degrees)
        return density

    def value(self, t: FloatArray) -> FloatArray:
        """Return the mean."""
        value: FloatArray = self.location.max() + t
        return value

    def slope(self, t: FloatArray) -> FloatArray:
        """Return 1."""
        return np.ones_like(t)

    def probability_below(self, value: float) -> FloatArray:
        """Return P(mean <= value), shape (n_arms,)."""
        below: FloatArray = special.stdtr(self.degrees, (value - self.location) / self.scale)
        return below

    def draw(self, rng: Generator, size: int) -> FloatArray:
        """Draw from the posteriors, shape (size, n_arms)."""
        return self.location + self.scale * rng.standard_t(self.degrees, size=(size, len(self.location)))


@dataclass(frozen=True, slots=True, eq=False)
class GammaArms:
    """Independent Gamma(shape, rate) posteriors of mean counts per pull; arrays of shape (n_arms,).

    On the scale t = log(mean) a density relative to its peak is exp(-shape (exp(d) - 1 - d)), d = t
    - peak.

    Raises ValueError unless the shapes agree, there is an arm, and every parameter is within
    [`PARAMETER_MIN`, `PARAMETER_MAX`].
    """

    shape: FloatArray
    rate: FloatArray

    def __post_init__(self) -> None:
        _check_parameters(self.shape, self.rate, "shape and rate")

    @classmethod
    def from_totals(
        cls, totals: ArmTotals, *, prior_shape: float | FloatArray = 0.5, prior_rate: float | FloatArray = 0.5
    ) -> "GammaArms":
        """Return the posteriors of Poisson means: shape = prior + sum, rate = prior + n.

        Exact for counts that are Poisson. Counts that vary more than that (clustered clicks) make
        it too narrow: use `NormalArms` for those.

        Worked by hand: counts 3, 0 and 1 under Gamma(0.5, 0.5) give Gamma(4.5, 3.5), with mean 9/7.

        Source: Gelman et al., Bayesian Data Analysis, section 2.6.
        """
        if not (totals.sum >= 0).all():
            raise InvalidInput("counts must not be negative")
        return cls(prior_shape + totals.sum, prior_rate + totals.n)

    @property
    def mean(self) -> FloatArray:
        """Posterior means, shape (n_arms,)."""
        mean: FloatArray = self.shape / self.rate
        return mean

    @property
    def variance(self) -> FloatArray:
        """Posterior variances, shape (n_arms,)."""
        variance: FloatArray = self.shape / self.rate**2
        return variance

    @property
    def bends(self) -> FloatArray:
        """No points: the exponential function is smooth on every panel."""
        return np.empty(0)

    def edges(self) -> FloatArray:
        """Return where each arm's panels begin and end on the log scale."""
        peak = np.log(self.shape / self.rate)[:, None]
        left, right = _log_distances(self.shape)
        return np.concatenate((peak - left[:, ::-1], peak, peak + right), axis=1)

    def log_density(self, t: FloatArray) -> FloatArray:
        """Return the log density of t = log(mean) relative to its peak."""
        distance = t - np.log(self.shape / self.rate)[:, None, None]
        density: FloatArray = -self.shape[:, None, None] * (np.expm1(distance) - distance)
        return density

    def value(self, t: FloatArray) -> FloatArray:
        """Return the exponential function."""
        value: FloatArray = np.exp(t)
        return value

    def slope(self, t: FloatArray) -> FloatArray:
        """Return the exponential function."""
        slope: FloatArray = np.exp(t)
        return slope

    def probability_below(self, value: float) -> FloatArray:
        """Return P(mean <= value), shape (n_arms,)."""
        below: FloatArray = special.gammainc(self.shape, self.rate * max(value, 0.0))
        return below

    def draw(self, rng: Generator, size: int) -> FloatArray:
        """Draw from the posteriors, shape (size, n_arms)."""
        return rng.gamma(self.shape, 1 / self.rate, size=(size, len(self.shape)))


def answers_per_reward(totals: ArmTotals, *, alike_over: int | None = None) -> FloatArray:
    """Return the number of yes-or-no answers that one reward is worth, shape (..., n_arms).

    With the mean m, an answer has the variance m (1 - m). A reward r has the variance s2 of its
    arm, which is less by the mean of r (1 - r). So a reward is worth m (1 - m) / s2 answers. For n
    >= 2 rewards, S = sum r (1 - r) is the additional variation of answers, and D = n / (n - 1) sum
    (r - mean)^2 estimates n s2. The ratio is

        (1 + D + S) / (1 + D).

    The 1 comes from four answers of mean 1/2: a few rewards that are close together do not count as
    certain. With fewer than 2 rewards, or squares that no rewards have, the ratio is 1. For rewards
    of 0 and 1, S is 0 and the ratio is exactly 1. No arm counts for more than `ANSWERS_MAX`
    answers. `alike_over` is an axis, such as segments, along which the rewards of an arm vary about
    different means but by the same ratio: D and S are summed over it, and the result lacks it.

    Worked by hand: rewards 1, 0 and 0.5 have S = 0.25 and D = 3/2 x 0.5 = 0.75: 2 / 1.75 = 8/7
    answers each.

    Source: the dispersion of quasi-likelihood, Wedderburn (1974), Biometrika 61(3), for the
    variance phi m (1 - m); we depart from it by a prior that starts at answers, and by its weight.
    """
    possible = totals.n * totals.sum_squares >= (1 - _ROUNDING) * totals.sum**2
    known = (totals.n >= 2) & possible
    n = np.where(known, totals.n, 2.0)
    spared = known * np.maximum(totals.sum - totals.sum_squares, 0.0)
    deviations = known * np.maximum(totals.sum_squares - totals.sum**2 / n, 0.0) * (n / (n - 1))
    rewards = totals.n
    if alike_over is not None:
        rewards, spared, deviations = (array.sum(axis=alike_over) for array in (rewards, spared, deviations))
    varies = _DISPERSION_PRIOR + deviations
    most = np.maximum(ANSWERS_MAX / np.maximum(rewards, 1.0), 1.0)
    worth: FloatArray = np.minimum((varies + spared) / varies, most)
    return worth


def _check_parameters(first: FloatArray, second: FloatArray, names: str) -> None:
    if first.ndim != 1 or first.shape != second.shape or not first.size:
        raise InvalidInput(
            f"{names} must both have the shape (n_arms,), got {first.shape} and {second.shape}"
        )
    parameters = np.concatenate((first, second))
    if not ((parameters >= PARAMETER_MIN) & (parameters <= PARAMETER_MAX)).all():
        raise InvalidInput(f"{names} must be within [{PARAMETER_MIN:g}, {PARAMETER_MAX:g}]")


def _logit_distances(slope: FloatArray, other: FloatArray) -> FloatArray:
    """Return distances from the peak where a Beta density has fallen by `_FALLS`, and its bend.

    The first guess, a Gaussian's distance plus an exponential's, is never too short. Each step
    solves the equation exactly for one of the two places in which the distance stands; two leave a
    fall that is right within a factor of 1.6, which is all a panel needs.
    """
    slope, other = slope[:, None], other[:, None]
    n = slope + other
    distance = np.sqrt(2 * _FALLS * (n / slope) / other) + _FALLS / slope
    for _ in range(2):
        rise = (_FALLS + other * distance) / n
        distance = np.minimum(distance, rise + np.log1p(-(slope / other) * np.expm1(-rise)))
    bend = np.minimum(_BEND, distance[:, -1:])
    return np.sort(np.concatenate((distance, bend), axis=1), axis=1)


def _log_distances(shape: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return distances on both sides of the peak where a log-Gamma density has fallen by `_FALLS`.

    The distances ascend. At distance d the density has fallen by shape (exp(-d) - 1 + d) on the
    left and by shape (exp(d) - 1 - d) on the right. The result is never too short and at most 1.5
    times too long:

    * Left: the distance of a Gaussian plus 1.5 times that of an exponential density.
    * Right: the smaller of the Gaussian's and the fixed point of d = log(1 + fall / shape + d).

    With a small shape the density is flat on the right until it ends abruptly. The bend is placed
    before that end.
    """
    fall = _FALLS / shape[:, None]
    left = np.sqrt(2 * fall) + fall
    right = np.log1p(fall + np.sqrt(2 * fall))
    for _ in range(4):
        right = np.log1p(fall + right)
    right = np.minimum(right, np.sqrt(2 * fall))
    left_bend = np.minimum(_BEND, left[:, -1:])
    right_bend = right[:, -1:] - _BEND
    right_bend = np.where(right_bend > right[:, :1], right_bend, right[:, -1:])
    return (
        np.sort(np.concatenate((left, left_bend), axis=1), axis=1),
        np.sort(np.concatenate((right, right_bend), axis=1), axis=1),
    )
