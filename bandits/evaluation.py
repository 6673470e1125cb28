"""Off-policy evaluation: estimates what another policy would have earned on logged traffic.

All estimators take `Served` rows: what was served, with which probability, what it earned, and the
shares that the policy under evaluation (the target) would have given. The weight of a row is the
target's share of the served arm over its propensity. No estimator knows anything of contexts in
which the target would serve what was never served. So every answer carries its `Overlap`, and with
too little overlap there is no answer.

The target must be fixed beforehand or learned from other rows. The log may come from a policy that
adapts. Then the terms are martingale differences about the same mean. The intervals by the central
limit theorem hold if the average variance of the terms settles; an exploration floor helps.
`anytime_interval` needs neither.

Source: Dudik, Erhan, Langford & Li (2014), Statistical Science 29(4), for IPS and doubly robust
estimation; Swaminathan & Joachims (2015), NeurIPS, for the self-normalised one.
"""

import math
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from scipy import optimize, special

from bandits.features import UNIT, IntArray
from bandits.linear import LinearTotals, disjoint
from bandits.totals import FloatArray
from stats import checks
from stats.errors import InsufficientData, InvalidInput
from stats.interval import Interval
from stats.totals import MeanTotals

EFFECTIVE_ROWS_MIN: Final = 30.0
"""With fewer there is no answer: neither the mean weight nor the variance is known to a third."""
EFFECTIVE_ROWS_WARNING: Final = 100.0
WEIGHT_SHARE_WARNING: Final = 0.10

_ROUNDING: Final = 1e-6  # by which shares may miss a sum of one
# Shares of wealth that constant bets stake on a mean being above the hypothesis. Each is the best
# for some sample size; a factor of two from the best costs little.
_BETS: Final = 0.5 * 2.0 ** -np.arange(12)[:, None]


class TooLittleOverlap(InsufficientData):
    """The log serves too rarely what the target would serve. The message says what is missing."""


class Overlap(msgspec.Struct, frozen=True):
    """Measures of how much the log says about the target.

    `effective_rows` is (sum w)^2 / sum w^2 (Kish): that number of rows of the target itself would
    be as precise. `largest_share` is the largest weight over the sum of weights. `mean_weight` is 1
    in expectation, and less if the target serves what the log never does; `mean_weight_error` is
    its standard error.
    """

    n: int
    effective_rows: float
    largest_share: float
    mean_weight: float
    mean_weight_error: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to read the answer with care."""
        warnings = []
        if self.effective_rows < EFFECTIVE_ROWS_WARNING:
            warnings.append(f"only {self.effective_rows:.0f} effective rows of {self.n}")
        if self.largest_share > WEIGHT_SHARE_WARNING:
            warnings.append(f"one row has {self.largest_share:.0%} of all weight")
        if abs(self.mean_weight - 1) > 4 * self.mean_weight_error + _ROUNDING:
            warnings.append(
                f"weights average {self.mean_weight:.3g} instead of 1: the policy would serve what the log "
                "never does, or propensities are wrong"
            )
        return tuple(warnings)


class Estimate(msgspec.Struct, frozen=True):
    """The target's mean reward, with an interval for one look at a fixed number of rows."""

    value: float
    standard_error: float
    interval: Interval
    overlap: Overlap


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """Logged rows.

    `arms`, `rewards` in [0, 1] and `propensities` in (0, 1] have shape (n,), n > 0. `targets`,
    shape (n, n_arms), are the shares that the policy under evaluation would have given each arm in
    each row's context.

    Raises InvalidInput if shapes disagree or a number is out of its range.
    """

    arms: IntArray
    rewards: FloatArray
    propensities: FloatArray
    targets: FloatArray

    def __post_init__(self) -> None:
        n = len(self.arms)
        if self.targets.ndim != 2 or not self.rewards.shape == self.propensities.shape == (n,):
            raise InvalidInput(
                "arms, rewards and propensities must have one entry per row, targets one per arm"
            )
        if len(self.targets) != n or not n:
            raise InvalidInput(f"targets must have a row for each of {n} > 0 rows, got {len(self.targets)}")
        if not ((self.rewards >= 0) & (self.rewards <= 1)).all():
            raise InvalidInput("rewards must be in [0, 1]")
        if not ((self.propensities > 0) & (self.propensities <= 1)).all():
            raise InvalidInput("propensities must be in (0, 1]")
        if not ((self.arms >= 0) & (self.arms < self.targets.shape[1])).all():
            raise InvalidInput(f"arms must be in [0, {self.targets.shape[1]})")
        if not ((self.targets >= 0).all() and np.allclose(self.targets.sum(axis=1), 1, rtol=0, atol=1e-6)):
            raise InvalidInput("targets must be shares: non-negative, each row summing to 1")

    @property
    def weights(self) -> FloatArray:
        """Target's share over the propensity of the served arm, shape (n,)."""
        weights: FloatArray = self.targets[np.arange(len(self.arms)), self.arms] / self.propensities
        return weights

    @property
    def totals(self) -> "WeightTotals":
        """Sums that `ips` and `self_normalised` read."""
        return WeightTotals.of_rows(self.weights, self.rewards)


class WeightTotals(msgspec.Struct, frozen=True):
    """Sums over weights w and rewards r."""

    n: int = 0
    w: float = 0.0
    ww: float = 0.0
    wr: float = 0.0
    wwr: float = 0.0
    wwrr: float = 0.0
    largest: float = 0.0

    @classmethod
    def of_rows(cls, weights: FloatArray, rewards: FloatArray) -> "WeightTotals":
        """Sum over rows; both arrays have the shape (n,)."""
        gained = weights * rewards
        return cls(
            len(weights),
            float(weights.sum()),
            float(weights @ weights),
            float(gained.sum()),
            float(weights @ gained),
            float(gained @ gained),
            float(weights.max(initial=0.0)),
        )

    @property
    def overlap(self) -> Overlap:
        """Overlap of the rows. Raises TooLittleOverlap below EFFECTIVE_ROWS_MIN effective rows."""
        effective = self.w**2 / self.ww if self.ww else 0.0
        if effective < EFFECTIVE_ROWS_MIN:
            raise TooLittleOverlap(
                f"needs at least {EFFECTIVE_ROWS_MIN:.0f} effective rows, has {effective:.1f} of {self.n}: "
                "the log serves too rarely what the policy would serve"
            )
        mean = self.w / self.n
        error = math.sqrt(max(self.ww / self.n - mean**2, 0) / self.n)
        return Overlap(self.n, effective, self.largest / self.w, mean, error)


def ips(totals: WeightTotals, *, level: float = 0.95) -> Estimate:
    """Estimate by inverse propensity scores: the mean of w r.

    It is unbiased, and may leave [0, 1].

    Worked by hand: two arms are equally likely in the log. The target always serves the first,
    which earns 1 in each of 50 rows; the other earns 0 in 50. Weights are 2 and 0, and the estimate
    is 50 * 2 * 1 / 100 = 1.

    Raises TooLittleOverlap, and InvalidInput unless level is in (0, 1).
    """
    overlap = totals.overlap
    return _estimate(MeanTotals.from_sums(totals.n, totals.wr, totals.wwrr), overlap, level)


def self_normalised(totals: WeightTotals, *, level: float = 0.95) -> Estimate:
    """Estimate the self-normalised value: the sum of w r over the sum of w.

    It stays within [0, 1], and moves with the origin of the rewards.

    It is biased by O(1 / n), and usually has less variance than `ips`. The standard error is that
    of a ratio, by linearisation.

    Worked by hand: in the case of `ips` with 48 and 52 rows instead of 50 and 50, `ips` gives 0.96,
    and this is still 1.

    Raises TooLittleOverlap, and InvalidInput unless level is in (0, 1).
    """
    overlap = totals.overlap
    value = totals.wr / totals.w
    squares = max(totals.wwrr - 2 * value * totals.wwr + value**2 * totals.ww, 0.0)
    # sum w (r - value) is 0 by construction, so its squares are the variance.
    variance = squares / totals.w**2 * totals.n / (totals.n - 1)
    return _interval(value, math.sqrt(variance), overlap, level, within=(0.0, 1.0))


def doubly_robust(served: Served, predictions: FloatArray, *, level: float = 0.95) -> Estimate:
    """Estimate the mean of sum_a target(a) q(a) + w (r - q(served arm)).

    `predictions` q, shape (n, n_arms), are rewards expected by a model that has not seen the row
    itself (`cross_fitted`). The estimate is unbiased for all predictions, since propensities are
    known; better ones reduce the variance. With q = 0 it is `ips`.

    Raises TooLittleOverlap, and InvalidInput unless level is in (0, 1) and the shapes agree.
    """
    expected, of_served = _expected(served, predictions)
    overlap = served.totals.overlap
    terms = expected + served.weights * (served.rewards - of_served)
    mean = float(terms.mean())
    deviations = terms - mean
    totals = MeanTotals(len(terms), mean, float(deviations @ deviations))
    return _estimate(totals, overlap, level)


def self_normalised_doubly_robust(
    served: Served, predictions: FloatArray, *, level: float = 0.95
) -> Estimate:
    """Estimate like `doubly_robust`, but divide the correction by the sum of weights.

    It is the mean of sum_a target(a) q(a), plus the sum of w (r - q(served arm)) over the sum of w.
    Rare large weights move it less than `doubly_robust`. It is biased by O(1 / n), and always
    within [-1, 2]; with q = 0 it has the value of `self_normalised`. The standard error is that of a
    mean plus a ratio, by linearisation.

    Raises TooLittleOverlap, and InvalidInput unless level is in (0, 1) and the shapes agree.

    Source: Thomas & Brunskill (2016), ICML, the weighted doubly robust estimator for one step.
    """
    expected, of_served = _expected(served, predictions)
    overlap = served.totals.overlap
    weights = served.weights / served.weights.mean()
    residuals = served.rewards - of_served
    correction = float((weights * residuals).mean())
    terms = expected + weights * (residuals - correction) + correction
    deviations = terms - terms.mean()
    totals = MeanTotals(len(terms), float(terms.mean()), float(deviations @ deviations))
    return _estimate(totals, overlap, level)


def _expected(served: Served, predictions: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the target's predicted reward and the prediction for the served arm, shapes (n,)."""
    if predictions.shape != served.targets.shape or not np.isfinite(predictions).all():
        raise InvalidInput(f"predictions must be finite and of the shape {served.targets.shape}")
    of_served: FloatArray = predictions[np.arange(len(served.arms)), served.arms]
    expected: FloatArray = np.einsum("na,na->n", served.targets, predictions)
    return expected, of_served


def cross_fitted(contexts: IntArray, served: Served, *, folds: int = 5) -> FloatArray:
    """Predict rewards, shape (n, n_arms), in [0, 1], by linear models that have not seen the row.

    `contexts` are in fixed point, shape (n, d), as `Schema.vector_fixed` gives them. Row i belongs
    to fold i mod `folds`. The model is the posterior mean of `bandits.linear.disjoint`, whose
    regularisation comes from the data.

    Raises InvalidInput unless there is a context per row and 2 <= folds <= n.
    """
    n, n_arms = served.targets.shape
    if len(contexts) != n or not 2 <= folds <= n:
        raise InvalidInput(f"needs a context per row and 2 to {n} folds, got {len(contexts)} and {folds}")
    fold = np.arange(n) % folds
    parts = [
        [
            LinearTotals.of_rows(contexts[chosen], served.rewards[chosen])
            for chosen in ((served.arms == arm) & (fold == index) for arm in range(n_arms))
        ]
        for index in range(folds)
    ]
    everything = [sum(of_arm[1:], of_arm[0]) for of_arm in zip(*parts, strict=True)]
    predictions = np.empty((n, n_arms))
    for index in range(folds):
        others = [total - part for total, part in zip(everything, parts[index], strict=True)]
        rows = fold == index
        predictions[rows] = contexts[rows] / UNIT @ disjoint(others).means.T
    return np.clip(predictions, 0, 1)


def anytime_interval(served: Served, *, level: float = 0.95) -> Interval:
    """Return an interval for the target's mean reward that is valid at every number of rows.

    It is exact (without a limit theorem or a bound on the weights), also for logs of adaptive
    policies. The probability that it ever misses, over all looks, is at most 1 - level, if the mean
    reward of the target is the same in every row given the past. It is wider than the interval of
    `ips`.

    A bet that w r has a mean above v multiplies its wealth by 1 - c + c w r / v in each row. If the
    mean is at most v, that factor is at most 1 on average, also for a mixture over constant c. The
    lower bound is the smallest v at which the wealth has not reached 2 / (1 - level); the upper
    bound is one minus that of w (1 - r).

    Worked by hand: without rows the wealth is 1 at every v, the interval [0, 1].

    Raises InvalidInput unless level is in (0, 1). It does not refuse little overlap: the interval
    is then wide.

    Source: Waudby-Smith, Wu, Ramdas, Karampatziakis & Mineiro (2022), arXiv 2210.10768, for
    importance-weighted rewards; Waudby-Smith & Ramdas (2024), JRSS B 86(1), for betting. We depart
    from them: they tune bets along the way, and a mixture of constant bets does not depend on the
    order of rows.
    """
    checks.open_unit(level, "level")
    needed = math.log(2 / (1 - level))
    lower = _lower_bound(served.weights * served.rewards, needed)
    upper = 1 - _lower_bound(served.weights * (1 - served.rewards), needed)
    # If both bounds exclude everything, chance or wrong propensities did it: the wider reading is
    # kept.
    return Interval(min(lower, upper), max(lower, upper))


def _lower_bound(gains: FloatArray, needed: float) -> float:
    values, counts = np.unique(gains, return_counts=True)

    def excess(mean: float) -> float:
        growth = np.log1p(_BETS * (values / mean - 1)) @ counts
        return float(np.logaddexp.reduce(growth)) - math.log(len(_BETS)) - needed

    least = 1e-12
    if excess(least) <= 0:
        return 0.0
    if excess(1.0) >= 0:
        return 1.0
    return float(optimize.brentq(excess, least, 1.0, xtol=1e-8))


def _estimate(terms: MeanTotals, overlap: Overlap, level: float) -> Estimate:
    return _interval(terms.mean, math.sqrt(terms.variance / terms.n), overlap, level)


def _interval(
    value: float,
    error: float,
    overlap: Overlap,
    level: float,
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    checks.open_unit(level, "level")
    if not error > 0:
        raise InsufficientData("the rows do not differ, so that nothing is known of their variance")
    radius = float(special.ndtri(0.5 + 0.5 * level)) * error
    interval = Interval(max(value - radius, within[0]), min(value + radius, within[1]))
    return Estimate(value, error, interval, overlap)
