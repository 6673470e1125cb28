"""Exact confidence sequences for observations within [0, 1].

They are valid from the first look, for any distribution.

* `bounded_sequence` works on plain totals. It is exact for proportions, and for other observations
conservative: it
  treats them as if they were as spread as zeros and ones.
* `BernsteinSums` is a state with three sums, updated by the totals of each batch; its width follows
  the variance.

All are valid for an arm of a bandit too, where the number of its observations depends on the
outcomes: time is the arm's own count.

Sources: Howard, Ramdas, McAuliffe & Sekhon (2021), Annals of Statistics 49(2), Propositions 7 and
9, Theorem 4; Waudby-Smith & Ramdas (2024), JRSS B 86(1), Theorem 3. The formulas are derived again
in the docstrings.
"""

import math
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from stats import checks
from stats.errors import InvalidInput
from stats.estimate import Alternative
from stats.interval import Interval
from stats.mixture import tuned
from stats.totals import FloatArray, MeanTotals, ProportionTotals

_WHOLE: Final = Interval(0.0, 1.0)
# The prior weighs at least this many observations.
_PRIOR_MIN: Final = 0.5
# Doubled so often, any distance from the mean is farther than a logit can be.
_SEARCH_STEPS: Final = 64


def log_beta_mixture(
    successes: float, n: float, p: npt.ArrayLike, *, weight: float, alternative: Alternative = "two-sided"
) -> FloatArray:
    """Return the log likelihood ratio of a mixture of rates q to the rate p, elementwise in p.

    The mixture is q ~ Beta(weight p, weight (1 - p)). One-sided the Beta is cut to q > p
    ("greater") or q < p. For every q, (q/p)^successes ((1-q)/(1-p))^failures is a martingale under
    p, and a supermartingale where the true rate lies beyond p on the other side. It stays one for
    any observations within [0, 1], because it is convex in each of them.

    Worked by hand: 1 of 2 and weight 1 at p = 1/2: E[q (1 - q)] / (1/4) = (1/2) = log -0.6931.
    """
    rate = np.asarray(p, dtype=float)
    failures = n - successes
    a, b = weight * rate, weight * (1 - rate)
    log_ratio = (
        special.betaln(a + successes, b + failures)
        - special.betaln(a, b)
        - special.xlogy(successes, rate)
        - special.xlog1py(failures, -rate)
    )
    if alternative == "two-sided":
        return np.asarray(log_ratio)
    tail = special.betaincc if alternative == "greater" else special.betainc
    # A tail of 0 means no evidence at all: minus infinity is its right logarithm.
    with np.errstate(divide="ignore"):
        kept = np.log(tail(a + successes, b + failures, rate)) - np.log(tail(a, b, rate))
    return np.asarray(log_ratio + kept)


def bounded_sequence(
    totals: MeanTotals | ProportionTotals,
    *,
    alpha: float,
    tuned_to: float,
    alternative: Alternative = "two-sided",
) -> Interval:
    """Return a confidence sequence for a proportion or a mean of observations within [0, 1].

    It contains all rates p whose `log_beta_mixture` is below log(1 / alpha). It is tightest at
    `tuned_to` observations. Without observations it is [0, 1].

    Worked by hand: after 1 of 1, or 0 of 1, the mixture's rate equals p itself: the ratio is 1 for
    every p, and the interval is [0, 1].
    Raises InvalidInput if the mean is outside [0, 1].
    """
    rho = tuned(tuned_to, alpha=alpha, alternative=alternative)
    n = totals.n
    if not n:
        return _WHOLE
    checks.closed_unit(totals.mean, "mean")
    successes = totals.successes if isinstance(totals, ProportionTotals) else totals.n * totals.mean

    def evidence(p: float) -> float:
        log_ratio = log_beta_mixture(
            successes, n, p, weight=max(rho - 1, _PRIOR_MIN), alternative=alternative
        )
        return float(log_ratio) + math.log(alpha)

    mean = successes / n
    wanted = -math.log(alpha) + 0.5 * math.log1p(n / max(rho - 1, _PRIOR_MIN))
    distance = math.sqrt(2 * wanted / max(successes * (1 - mean), _PRIOR_MIN))
    lower = 0.0 if alternative == "less" else _end(evidence, mean, 0.0, distance)
    upper = 1.0 if alternative == "greater" else _end(evidence, mean, 1.0, distance)
    return Interval(lower, upper)


def _end(evidence: Callable[[float], float], mean: float, end: float, distance: float) -> float:
    """Find where the evidence against a rate becomes positive between the mean and 0 or 1.

    The search starts at `distance` from the observed mean on the logit scale. On that scale it
    finds a rate of 1e-12 as fast as one of 0.4.
    """
    if mean == end:
        return end

    def excess(logit: float) -> float:
        return evidence(float(special.expit(logit)))

    nearer = min(max(float(special.logit(mean)), -700.0), 36.0)
    outermost, step = (-700.0, -distance) if end == 0 else (36.0, distance)
    farther = nearer
    for _ in range(_SEARCH_STEPS):
        farther = max(nearer + step, outermost) if end == 0 else min(nearer + step, outermost)
        if excess(farther) >= 0:
            return float(special.expit(optimize.brentq(excess, nearer, farther, xtol=1e-12)))
        if farther == outermost:
            break
        nearer, step = farther, 2 * step
    return end


def log_gamma_mixture(score: float, variance: float, rho: float) -> float:
    """Return the log of a supermartingale for observations at most 1 below their predictions.

    For 0 <= s < 1, exp(s (x - mean) + (log(1 - s) + s) (x - prediction)^2) has an expectation of at
    most 1 (Fan, Grama & Liu 2015). With S the sum of x - mean and V that of the squares, the
    product is (1 - s)^V exp(s (S + V)). Averaged over 1 - s ~ Gamma(rho, rate rho) cut to (0, 1], P
    the regularised incomplete gamma function:

        rho^rho / (Gamma(rho) P(rho, rho)) Gamma(V + rho) P(V + rho, S + V + rho) / (S + V + rho)^(V + rho)
        e^(S + V).

    Worked by hand: nothing observed, S = V = 0: the ratio is 1, its log 0.
    """
    shape, rate = variance + rho, score + variance + rho
    return float(
        rho * math.log(rho)
        - special.gammaln(rho)
        - math.log(special.gammainc(rho, rho))
        + special.gammaln(shape)
        + math.log(special.gammainc(shape, rate))
        - shape * math.log(rate)
        + score
        + variance
    )


def gamma_boundary(variance: float, *, alpha: float, rho: float) -> float:
    """Return the sum at which `log_gamma_mixture` reaches log(1 / alpha).

    Raises InvalidInput unless alpha is in (0, 1), variance not negative and rho positive.
    """
    checks.open_unit(alpha, "alpha")
    checks.not_negative(variance, "variance")
    checks.positive(rho, "rho")

    def excess(score: float) -> float:
        return log_gamma_mixture(score, variance, rho) + math.log(alpha)

    upper = 1.0
    while excess(upper) < 0:
        upper *= 2
    return float(optimize.brentq(excess, 0.0, upper, xtol=1e-12 * upper, rtol=1e-13))


class BernsteinSums(msgspec.Struct, frozen=True):
    """State of the empirical-Bernstein sequence for observations within [0, 1].

    `deviation` is the sum of squared distances from a prediction that is made before each batch:
    the mean so far, with one observation of 1/2 to begin with. Small batches predict better; any
    are valid. The order of the batches is part of the state, so states do not merge: totals of a
    batch do, before it is added.

    Raises InvalidInput if something is negative, or total > n.
    """

    n: int = 0
    total: float = 0.0
    deviation: float = 0.0

    def __post_init__(self) -> None:
        checks.not_negative(self.n, "n")
        checks.not_negative(self.total, "total")
        checks.not_negative(self.deviation, "deviation")
        if self.total > self.n * (1 + 1e-9):
            raise InvalidInput(f"observations within [0, 1] cannot sum to {self.total:g} with n = {self.n}")

    def after(self, batch: MeanTotals) -> "BernsteinSums":
        """Return the state with one more batch.

        Worked by hand: the first batch {0, 1} is predicted as 1/2: deviation 1/4 + 1/4.
        Raises InvalidInput if the batch's mean or spread does not come from observations within
        [0, 1].
        """
        checks.closed_unit(batch.mean, "mean")
        if batch.m2 > batch.n * batch.mean * (1 - batch.mean) * (1 + 1e-9) + 1e-9:
            raise InvalidInput(f"m2 = {batch.m2:g} is too large for observations within [0, 1]")
        prediction = (0.5 + self.total) / (1 + self.n)
        spread = batch.m2 + batch.n * (batch.mean - prediction) ** 2
        return BernsteinSums(self.n + batch.n, self.total + batch.n * batch.mean, self.deviation + spread)

    def interval(
        self,
        *,
        alpha: float,
        tuned_to: float,
        expected_variance: float = 1 / 12,
        alternative: Alternative = "two-sided",
    ) -> Interval:
        """Return a confidence sequence for the mean.

        It is tightest at `tuned_to` observations of `expected_variance`.

        Raises InvalidInput unless alpha is in (0, 1) and the tuning is positive.
        """
        checks.open_unit(alpha, "alpha")
        checks.positive(expected_variance, "expected_variance")
        side = alpha / 2 if alternative == "two-sided" else alpha
        rho = tuned(tuned_to * expected_variance, alpha=side, alternative="greater")
        if not self.n:
            return _WHOLE
        distance = gamma_boundary(self.deviation, alpha=side, rho=rho) / self.n
        mean = self.total / self.n
        return Interval(
            0.0 if alternative == "less" else max(mean - distance, 0.0),
            1.0 if alternative == "greater" else min(mean + distance, 1.0),
        )
