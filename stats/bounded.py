"""Exact confidence sequences for observations within [0, 1]: valid from the first look, whatever their shape.

* `bounded_sequence` works on plain totals. It is exact for proportions, and for other observations
conservative: it
  treats them as if they were as spread as zeros and ones.
* `BernsteinSums` is a state with three sums, updated by the totals of each batch; its width follows the
variance.
* `HedgedCapital` bets against every candidate mean on a grid, observation by observation: the tightest, and
the
  dearest to keep.

All are valid for an arm of a bandit too, where the number of its observations depends on the outcomes: time
is the arm's own count.

Sources: Howard, Ramdas, McAuliffe & Sekhon (2021), Annals of Statistics 49(2), Propositions 7 and 9, Theorem
4; Waudby-Smith & Ramdas (2024), JRSS B 86(1), Theorem 3. The formulas are derived again in the docstrings.
"""

import math
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from stats import checks
from stats.errors import InsufficientData, InvalidInput
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
    """The log likelihood ratio of a mixture of rates q to the rate p, elementwise in p.

    The mixture is q ~ Beta(weight p, weight (1 - p)). One-sided the Beta is cut to q > p ("greater") or q <
    p. For every q, (q/p)^successes ((1-q)/(1-p))^failures is a martingale under p, and a supermartingale
    where the true rate lies beyond p on the other side. It stays one for any observations within [0, 1],
    because it is convex in each of them.

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
    """Confidence sequence for a proportion, or for a mean of observations within [0, 1], from plain totals.

    All rates p whose `log_beta_mixture` is below log(1 / alpha). `tuned_to` is the number of observations at
    which it is tightest. Without observations it is [0, 1].

    Worked by hand: after 1 of 1, or 0 of 1, the mixture's rate equals p itself: the ratio is 1 for every p,
    and the interval is [0, 1].
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
    """Where the evidence against a rate becomes positive between the observed mean and 0 or 1.

    About at `distance` from the mean on the logit scale, on which a rate of 1e-12 is found as fast as one of
    0.4: the search goes on from there.
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


def bounded_difference_sequence(
    control: MeanTotals | ProportionTotals,
    treatment: MeanTotals | ProportionTotals,
    *,
    alpha: float,
    tuned_to: float,
    alternative: Alternative = "two-sided",
) -> Interval:
    """Exact confidence sequence for the difference of two means within [0, 1], treatment less control.

    From a sequence per arm, with alpha split in halves (a union bound): valid for any split, also that of a
    bandit, from the first look; about 1.4 times as wide as the asymptotic one when arms are equally large.
    `tuned_to` is in units of one arm.

    Worked by hand: arms of no observations are within [0, 1] each: the difference is within [-1, 1].
    Raises InvalidInput as `bounded_sequence`.
    """
    checks.open_unit(alpha, "alpha")
    opposite: dict[Alternative, Alternative] = {
        "greater": "less",
        "less": "greater",
        "two-sided": "two-sided",
    }
    of_treatment = bounded_sequence(treatment, alpha=alpha / 2, tuned_to=tuned_to, alternative=alternative)
    of_control = bounded_sequence(
        control, alpha=alpha / 2, tuned_to=tuned_to, alternative=opposite[alternative]
    )
    return Interval(of_treatment.lower - of_control.upper, of_treatment.upper - of_control.lower)


def log_gamma_mixture(score: float, variance: float, rho: float) -> float:
    """The log of a supermartingale in a sum of observations that are at least -1 from their predictions.

    For 0 <= s < 1, exp(s (x - mean) + (log(1 - s) + s) (x - prediction)^2) has an expectation of at most 1
    (Fan, Grama & Liu 2015). With S the sum of x - mean and V that of the squares, the product is
    (1 - s)^V exp(s (S + V)). Averaged over 1 - s ~ Gamma(rho, rate rho) cut to (0, 1], P the regularised
    incomplete gamma function:

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
    """The sum at which `log_gamma_mixture` reaches log(1 / alpha).

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

    `deviation` is the sum of squared distances from a prediction that is made before each batch: the mean so
    far, with one observation of 1/2 to begin with. Small batches predict better; any are valid. The order of
    the batches is part of the state, so states do not merge: totals of a batch do, before it is added.

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
        """With one more batch.

        Worked by hand: the first batch {0, 1} is predicted as 1/2: deviation 1/4 + 1/4.
        Raises InvalidInput if the batch's mean or spread does not come from observations within [0, 1].
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
        """Confidence sequence for the mean, tightest at `tuned_to` observations of `expected_variance`.

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


class HedgedCapital(msgspec.Struct, frozen=True):
    """State of the betting sequence for observations within [0, 1].

    It is what two gamblers own, per candidate mean. Candidates are k / K, k = 0..K. `rising` holds the log
    capital of the gambler who bets that the mean is above the candidate, `falling` that of the other, both of
    shape (K + 1,). Observations are bet on in the order given, so states do not merge. Make one with
    `HedgedCapital.start`.
    """

    n: int
    total: float
    squares: float
    rising: tuple[float, ...]
    falling: tuple[float, ...]

    @classmethod
    def start(cls, candidates: int = 1_000) -> "HedgedCapital":
        """Before the first observation: capital 1 everywhere. Bounds are multiples of 1 / candidates."""
        checks.n_at_least(candidates, 2, "candidates")
        return cls(0, 0.0, 0.0, (0.0,) * (candidates + 1), (0.0,) * (candidates + 1))

    def after(self, observations: npt.ArrayLike, *, alpha: float) -> "HedgedCapital":
        """With these observations, shape (n,), in this order.

        The stake before observation i is sqrt(2 log(2 / alpha) / (v_i i log(1 + i))), v_i the variance so far
        with one observation pair of spread 1/4 to begin with, but at most half of what may be lost: it
        depends on the past only.

        Worked by hand: capital cannot become negative: the stake times the worst step is at most 1/2.
        Raises InvalidInput if an observation is outside [0, 1].
        """
        checks.open_unit(alpha, "alpha")
        x = np.asarray(observations, dtype=float)
        if x.ndim != 1 or not ((x >= 0) & (x <= 1)).all():
            raise InvalidInput("observations must be one row of numbers within [0, 1]")
        if not x.size:
            return self
        before = np.arange(self.n, self.n + x.size)
        mean = (0.5 + self.total + np.cumsum(x) - x) / (before + 1)
        # Second moment with a pseudo-observation whose square is 1/2, so that the variance starts at 1/4.
        variance = np.maximum((0.5 + self.squares + np.cumsum(x**2) - x**2) / (before + 1) - mean**2, 1e-6)
        time = before + 1
        stake = np.sqrt(2 * math.log(2 / alpha) / (variance * time * np.log1p(time)))[:, None]
        candidates = np.linspace(0, 1, len(self.rising))
        step = x[:, None] - candidates
        with np.errstate(divide="ignore"):
            up = np.log1p(np.minimum(stake, 0.5 / candidates) * step).sum(axis=0)
            down = np.log1p(-np.minimum(stake, 0.5 / (1 - candidates)) * step).sum(axis=0)
        return HedgedCapital(
            self.n + x.size,
            self.total + float(x.sum()),
            self.squares + float((x**2).sum()),
            tuple((np.asarray(self.rising) + up).tolist()),
            tuple((np.asarray(self.falling) + down).tolist()),
        )

    def interval(self, *, alpha: float, alternative: Alternative = "two-sided") -> Interval:
        """All means against which neither gambler has reached 1 / alpha (two-sided: 2 / alpha).

        Raises InvalidInput unless alpha is in (0, 1); InsufficientData before the first observation.
        """
        checks.open_unit(alpha, "alpha")
        if not self.n:
            raise InsufficientData("needs at least 1 observation, has 0")
        wanted = math.log((2 if alternative == "two-sided" else 1) / alpha)
        last = len(self.rising) - 1
        rejected_below = np.flatnonzero(np.asarray(self.rising) >= wanted)
        rejected_above = np.flatnonzero(np.asarray(self.falling) >= wanted)
        lower, upper = 0.0, 1.0
        if alternative != "less" and rejected_below.size:
            lower = float(rejected_below[-1]) / last
        if alternative != "greater" and rejected_above.size:
            upper = float(rejected_above[0]) / last
        return Interval(lower, upper)
