"""Posteriors of proportions and means, and what they say of two arms.

A posterior is a fixed-time statement under its prior. Stopping as soon as P(better) passes 95 % declares a
difference between equal arms far more often than in 5 % of experiments, so a comparison has a place for the
e-value of the same data, from a sequential method (a mixture, betting or e-process), which may be looked at
any time: that P(e-value ever >= 1 / alpha) <= alpha holds for equal arms, whatever the prior. It is required,
not optional. Nor is a posterior more powerful for small n: with a flat prior its interval is close to the
classical one.
"""

import math
from itertools import pairwise
from typing import Final, Self

import msgspec
import numpy as np
from numpy.polynomial import legendre
from scipy import optimize, special

from stats import checks
from stats.errors import InvalidInput
from stats.estimate import Estimate
from stats.interval import Interval, beta_interval
from stats.totals import FloatArray, ProportionTotals

_NODES, _WEIGHTS = legendre.leggauss(16)
# Tail probabilities at which panels of the integration end: dense where the mass is, far into the tails.
_TAILS: Final = np.array([1e-14, 1e-10, 1e-7, 1e-5, 1e-3, 0.02, 0.1, 0.3])


class BetaPosterior(msgspec.Struct, frozen=True):
    """Beta(alpha, beta): what is believed about a proportion.

    Raises InvalidInput unless alpha and beta are in [0.1, 1e12], where the integrals here keep their
    accuracy.
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if not 0.1 <= value <= 1e12:
                raise InvalidInput(f"{name} must be in [0.1, 1e12], got {value:g}")

    @classmethod
    def from_totals(
        cls, total: ProportionTotals, *, prior_alpha: float = 1.0, prior_beta: float = 1.0
    ) -> "BetaPosterior":
        """After `total`, from the prior Beta(prior_alpha, prior_beta); the uniform one unless told.

        Worked by hand: 1 success in 2 under the uniform prior gives Beta(2, 2).
        """
        return cls(prior_alpha + total.successes, prior_beta + total.n - total.successes)

    @property
    def mean(self) -> float:
        """The posterior mean."""
        return self.alpha / (self.alpha + self.beta)

    def interval(self, *, alpha: float) -> Interval:
        """The equal-tailed credible interval, alpha / 2 in each tail."""
        checks.open_unit(alpha, "alpha")
        return beta_interval(self.alpha, self.beta, level=1 - alpha)

    def probability_above(self, other: Self, *, margin: float = 0.0) -> float:
        """P(self - other > margin) for independent posteriors; absolute error below 1e-9.

        Worked by hand: Beta(2, 1) is above Beta(1, 1) with probability E[theta] = 2/3.
        """
        checks.finite(margin, "margin")
        if not -1 < margin < 1:
            return 0.0 if margin > 0 else 1.0
        t, weight = _panels(_edges(self, other, margin))
        x = special.expit(t)
        density = _log_density(other, t) + np.log(weight)
        # 1 - x - margin from the complement, so that no digits are lost near 1.
        above = _upper_tail(self, x + margin, special.expit(-t) - margin)
        mass = np.exp(density - density.max())
        return float(np.clip(np.sum(mass * above) / np.sum(mass), 0.0, 1.0))

    def expected_shortfall(self, other: Self) -> float:
        """E[max(other - self, 0)]: what choosing this one costs on average, being wrong included.

        The integral over x of P(self <= x) P(other > x); absolute error below 1e-10.

        Worked by hand: of two Beta(1, 1) each falls short by the integral of x (1 - x) = 1/6.
        """
        t, weight = _panels(_edges(self, other, 0.0))
        x, complement = special.expit(t), special.expit(-t)
        below = 1 - _upper_tail(self, x, complement)
        lower = special.betainc(self.alpha, self.beta, x)
        product = np.where(x < 0.5, lower, below) * _upper_tail(other, x, complement)
        return float(np.sum(product * x * complement * weight))

    def difference_interval(self, other: Self, *, alpha: float) -> Interval:
        """The equal-tailed credible interval of self - other, by inverting `probability_above`.

        Worked by hand: for two Beta(1, 1) the difference has the triangular density 1 - |d|, so at alpha 0.5
        the bounds are -+ (1 - sqrt(1/2)) = -+ 0.293.
        """
        checks.open_unit(alpha, "alpha")

        def bound(probability: float) -> float:
            return float(
                optimize.brentq(
                    lambda margin: self.probability_above(other, margin=margin) - probability,
                    -1.0,
                    1.0,
                    xtol=1e-12,
                    rtol=1e-10,
                )
            )

        return Interval(bound(1 - alpha / 2), bound(alpha / 2))


class NormalPosterior(msgspec.Struct, frozen=True):
    """Normal(mean, sd^2): what is believed about a mean or an effect.

    Raises InvalidInput unless the mean is finite and sd positive and finite.
    """

    mean: float
    sd: float

    def __post_init__(self) -> None:
        checks.finite(self.mean, "mean")
        checks.positive(self.sd, "sd")

    @classmethod
    def from_estimate(cls, estimate: Estimate, *, prior_mean: float, prior_sd: float) -> "NormalPosterior":
        """After an estimate whose error is taken as normal with known variance: precisions add.

        Ignores the degrees of freedom: with fewer than about 30 it is too sure. An infinite `prior_sd` is
        flat.

        Worked by hand: the estimate 2 with standard error 1 under Normal(0, 1) gives Normal(1, 1/2).

        Source: Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., eq. 2.10.
        """
        checks.finite(prior_mean, "prior_mean")
        if not prior_sd > 0:
            raise InvalidInput(f"prior_sd must be positive, got {prior_sd:g}")
        # The share of the data, written so that no square overflows or vanishes.
        share = 1 / (1 + (estimate.standard_error / prior_sd) ** 2)
        mean = prior_mean + share * (estimate.value - prior_mean)
        return cls(mean, estimate.standard_error * math.sqrt(share))

    def interval(self, *, alpha: float) -> Interval:
        """The equal-tailed credible interval, alpha / 2 in each tail."""
        checks.open_unit(alpha, "alpha")
        radius = -float(special.ndtri(alpha / 2)) * self.sd
        return Interval(self.mean - radius, self.mean + radius)

    def __sub__(self, other: Self) -> "NormalPosterior":
        """The posterior of the difference of two independent ones."""
        return NormalPosterior(self.mean - other.mean, math.hypot(self.sd, other.sd))

    def probability_above(self, margin: float) -> float:
        """P(truth > margin)."""
        return float(special.ndtr((self.mean - margin) / self.sd))

    @property
    def expected_shortfall(self) -> float:
        """E[max(-truth, 0)] of an effect: what choosing the treatment costs on average, being wrong included.

        sd phi(z) - mean Phi(-z) with z = mean / sd. Worked by hand: mean 0 and sd 1 give 1 / sqrt(2 pi) =
        0.399.
        """
        z = self.mean / self.sd
        if z > 5:
            # phi(z) - z Phi(-z) cancels: in terms of erfcx it is phi(z) (1 - z R), R the Mills ratio.
            return self.sd * _normal_density(z) * _one_less_mills(z)
        return self.sd * (_normal_density(z) - z * float(special.ndtr(-z)))


class BayesianComparison(msgspec.Struct, frozen=True):
    """What two posteriors say of treatment - control, beside the e-value of the same data.

    `expected_loss` is what choosing the treatment costs on average where it is the worse one. `e_value` is
    the evidence against equal arms that may be looked at any time (see the module).
    """

    probability_better: float
    expected_loss: float
    interval: Interval
    e_value: float


def compare_proportions(
    treatment: BetaPosterior, control: BetaPosterior, *, alpha: float, e_value: float
) -> BayesianComparison:
    """Treatment - control of two proportions; `e_value` from a sequential method on the same data.

    Raises InvalidInput unless e_value >= 0 and finite.
    """
    checks.not_negative(e_value, "e_value")
    return BayesianComparison(
        treatment.probability_above(control),
        treatment.expected_shortfall(control),
        treatment.difference_interval(control, alpha=alpha),
        e_value,
    )


def compare_effect(effect: NormalPosterior, *, alpha: float, e_value: float) -> BayesianComparison:
    """The posterior of an effect treatment - control; `e_value` from a sequential method on the same data.

    Raises InvalidInput unless e_value >= 0 and finite.
    """
    checks.not_negative(e_value, "e_value")
    return BayesianComparison(
        effect.probability_above(0.0), effect.expected_shortfall, effect.interval(alpha=alpha), e_value
    )


def _upper_tail(posterior: BetaPosterior, x: FloatArray, complement: FloatArray) -> FloatArray:
    """P(theta > x), also for x outside [0, 1]."""
    inside: FloatArray = np.where(
        x < 0.5,
        special.betaincc(posterior.alpha, posterior.beta, np.clip(x, 0, 1)),
        special.betainc(posterior.beta, posterior.alpha, np.clip(complement, 0, 1)),
    )
    return inside


def _log_density(posterior: BetaPosterior, t: FloatArray) -> FloatArray:
    """The logarithm of the density of t = logit(theta), up to a constant: smooth for every alpha and beta.

    Relative to the peak, in a form that loses no digits when alpha + beta is large (see `bandits.best`).
    """
    a, b = posterior.alpha, posterior.beta
    n = a + b
    distance = t - math.log(a / b)
    slope = np.where(distance < 0, a, b)
    distance = np.abs(distance)
    density: FloatArray = -(slope * distance + n * np.log1p(slope / n * np.expm1(-distance)))
    return density


def _edges(first: BetaPosterior, second: BetaPosterior, margin: float) -> FloatArray:
    """Ends of panels on the scale of logit(second): quantiles of both, the first's moved by the margin."""
    own, other = _logit_quantiles(second), _cut(_logit_quantiles(first))
    if margin:
        # The first's own ends, 0 and 1, are moved too: its density may have poles there.
        moved = np.append(special.expit(other), (0.0, 1.0)) - margin
        other = special.logit(moved[(moved > 0) & (moved < 1)])
    # Between two posteriors that are far apart lies a gap, where their distribution functions still count.
    return _cut(np.unique(np.concatenate((own, other))))


def _cut(edges: FloatArray) -> FloatArray:
    """The same edges and more between them, so that each panel resolves the bend of the logistic scale."""
    pieces = [
        np.linspace(low, high, 1 + max(1, min(64, math.ceil((high - low) / 3.0))))[:-1]
        for low, high in pairwise(edges.tolist())
    ]
    cut: FloatArray = np.concatenate((*pieces, edges[-1:]))
    return cut


def _logit_quantiles(posterior: BetaPosterior) -> FloatArray:
    """Quantiles of logit(theta) from far left to far right, with all digits at both ends."""
    a, b = posterior.alpha, posterior.beta
    ends = []
    for left, right in ((a, b), (b, a)):
        x = special.betaincinv(left, right, _TAILS)
        complement = special.betainccinv(right, left, _TAILS)
        ends.append(np.log(x) - np.log(complement))
    quantiles: FloatArray = np.concatenate((ends[0], [math.log(a / b)], -ends[1][::-1]))
    return quantiles


def _panels(edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gauss-Legendre nodes and weights of all panels between neighbouring edges."""
    half = 0.5 * np.diff(edges)[:, None]
    nodes = edges[:-1, None] + half * (1 + _NODES)
    return nodes.ravel(), (half * _WEIGHTS).ravel()


def _normal_density(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _one_less_mills(z: float) -> float:
    """1 - z R(z), R the Mills ratio of the normal, for z > 5: by continued fraction, nothing cancels."""
    fraction = z
    for step in range(60, 1, -1):
        fraction = z + step / fraction
    # R = 1 / (z + 1 / fraction), so 1 - z R = (1 / fraction) / (z + 1 / fraction).
    return 1 / (z * fraction + 1)
