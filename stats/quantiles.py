"""Quantiles such as the 95th percentile of latency, from a mergeable sketch, with intervals.

The sketch counts observations in buckets whose edges grow by a constant factor. So every quantile
is known within a stated *relative* error. Two sketches merge by adding whole numbers: a ledger can
keep one row per bucket, exactly, for any order of events. (The idea of DDSketch; the numbering of
buckets is ours, so that one signed number names a bucket and its order is that of the values.)

Source: Masson, Rim & Lee (2019), DDSketch, Proceedings of the VLDB Endowment 12(12), section 2.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from typing import Final, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from stats import checks
from stats.bounded import log_beta_mixture
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Alternative
from stats.interval import Interval
from stats.mixture import tuned
from stats.proportions import difference_of_bounds
from stats.tails import binomial_quantile, binomial_upper_quantile
from stats.totals import FloatArray

SMALLEST: Final = 1e-9
"""Largest absolute value that counts as 0.

Give latencies in seconds or milliseconds.
"""


class QuantileSketch(msgspec.Struct, frozen=True, dict=True, tag_field="kind", tag="quantile"):
    """Numbers of observations per bucket: (bucket, count) pairs in ascending order of bucket.

    `accuracy` is the greatest relative error of a quantile. Raises InvalidInput unless it is in
    [1e-4, 0.5], buckets ascend and counts are positive.
    """

    accuracy: float
    buckets: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        _check_accuracy(self.accuracy)
        numbers = [number for number, _ in self.buckets]
        if any(after <= before for before, after in pairwise(numbers)):
            raise InvalidInput("buckets must ascend")
        if any(count <= 0 for _, count in self.buckets):
            raise InvalidInput("counts must be positive")

    @classmethod
    def from_observations(cls, observations: FloatArray, *, accuracy: float) -> "QuantileSketch":
        """Count observations of shape (n,). Raises InvalidInput if one is not finite."""
        numbers, counts = np.unique(bucket_numbers(observations, accuracy=accuracy), return_counts=True)
        return cls(accuracy, tuple(zip(numbers.tolist(), counts.tolist(), strict=True)))

    @classmethod
    def from_counts(cls, counts: Iterable[tuple[int, int]], *, accuracy: float) -> "QuantileSketch":
        """Sum (bucket, count) pairs in any order, repeated or zero, as a ledger holds them."""
        summed: Counter[int] = Counter()
        for number, count in counts:
            summed[number] += count
        return cls(accuracy, tuple(sorted((number, count) for number, count in summed.items() if count)))

    @cached_property
    def n(self) -> int:
        """Number of observations."""
        return sum(count for _, count in self.buckets)

    def __add__(self, other: Self) -> "QuantileSketch":
        if self.accuracy != other.accuracy:
            raise InvalidInput(f"accuracies {self.accuracy:g} and {other.accuracy:g} do not merge")
        return self.from_counts((*self.buckets, *other.buckets), accuracy=self.accuracy)

    def order_statistic(self, rank: int) -> tuple[float, float]:
        """Return the edges around the rank-th smallest observation, rank in [1, n].

        The edges are equal only at 0.

        Raises InvalidInput if there is no such rank.
        """
        if not 1 <= rank <= self.n:
            raise InvalidInput(f"rank must be in [1, {self.n}], got {rank}")
        number, _ = self.buckets[int(np.searchsorted(self.ranks, rank))]
        return _edges(number, self.accuracy)

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """Number of observations up to each bucket, which is the rank of its largest one."""
        return np.cumsum([count for _, count in self.buckets])


def bucket_numbers(observations: FloatArray, *, accuracy: float) -> NDArray[np.int64]:
    """Return the bucket of each observation, shape (n,): what a ledger counts.

    Bucket k > 0 holds (SMALLEST g^(k-1), SMALLEST g^k] with g = (1 + accuracy) / (1 - accuracy),
    bucket -k the negative of that, and bucket 0 what is at most SMALLEST in size.

    Worked by hand: at accuracy 1/3, g = 2, so 3e-9 is in bucket 2, which is (2e-9, 4e-9].

    Raises InvalidInput if an observation is not finite.
    """
    _check_accuracy(accuracy)
    if not np.isfinite(observations).all():
        raise InvalidInput("observations must be finite")
    size = np.maximum(np.abs(observations), SMALLEST)
    number = np.ceil((np.log(size) - math.log(SMALLEST)) / _log_growth(accuracy))
    buckets: NDArray[np.int64] = (np.sign(observations) * number).astype(np.int64)
    return buckets


def quantile(sketch: QuantileSketch, q: float) -> float:
    """Return the q-quantile.

    Its relative error to the ceil(q n)-th smallest observation is at most `accuracy`.

    Worked by hand: of 1, 2, 3, 4 the median is the second, so a value in [2 (1 - accuracy), 2 (1 +
    accuracy)].

    Raises InsufficientData if the sketch is empty; InvalidInput unless q is in (0, 1).
    """
    checks.open_unit(q, "q")
    checks.n_at_least(sketch.n, 1, "observations")
    lower, upper = sketch.order_statistic(min(max(math.ceil(q * sketch.n), 1), sketch.n))
    # The point with the same relative error to both edges.
    return 2 * lower * upper / (lower + upper) if lower + upper else 0.0


def quantile_interval(sketch: QuantileSketch, q: float, *, alpha: float) -> Interval:
    """Return the interval of the q-quantile between two order statistics.

    It holds for any distribution. The number of n observations below the q-quantile is
    Binomial(n, q). The ranks are the alpha / 2 and 1 - alpha / 2 quantiles of that distribution.
    The bounds are the outer edges of their buckets, so the sketch never reduces coverage.
    Observations must be independent: one per unit.

    Worked by hand: of 10 observations the median lies between the 2nd and the 9th with probability
    1 - 22 / 1024 = 0.979.

    Raises InsufficientData if n is too small for ranks to exist on both sides: the 95th percentile
    at alpha 0.05 needs 72 observations.

    Source: David & Nagaraja (2003), Order Statistics, 3rd ed., section 7.1.
    """
    checks.open_unit(q, "q")
    checks.open_unit(alpha, "alpha")
    checks.n_at_least(sketch.n, 1, "observations")
    # The largest rank with P(X < rank) <= alpha / 2, and the smallest with P(X >= rank) <= alpha /
    # 2.
    lower = binomial_quantile(alpha / 2, sketch.n, q)
    upper = binomial_upper_quantile(alpha / 2, sketch.n, q) + 1
    if lower < 1 or upper > sketch.n:
        raise InsufficientData(
            f"{sketch.n} observations do not bound their {q:g}-quantile at alpha {alpha:g}"
        )
    return Interval(sketch.order_statistic(lower)[0], sketch.order_statistic(upper)[1])


def quantile_difference_interval(
    treatment: QuantileSketch, control: QuantileSketch, q: float, *, alpha: float
) -> Interval:
    """Return the interval of the difference of the q-quantiles, treatment - control.

    It combines the intervals of both arms.

    Worked by hand: 10 in [8, 13] and 6 in [5, 9] differ by 4, at least 4 - sqrt(2^2 + 3^2) = 0.39
    and at most 4 + sqrt(3^2 + 1^2) = 7.16.

    Raises what `quantile_interval` raises.

    Source: Zou & Donner (2008), Statistics in Medicine 27(10). Large-sample: unlike the interval of
    each arm it is not exact, though conservative by the width of the buckets.
    """
    ours = quantile_interval(treatment, q, alpha=alpha)
    theirs = quantile_interval(control, q, alpha=alpha)
    return difference_of_bounds(quantile(treatment, q), ours, quantile(control, q), theirs)


def quantile_sequence(sketch: QuantileSketch, q: float, *, alpha: float, tuned_to: float) -> Interval:
    """Return a confidence sequence for the q-quantile.

    It holds at every look for any distribution, also with ties.

    If x is the quantile, the share of observations up to x is at least q and the share below x at
    most q. A value is left out when the exact sequential test of a proportion
    (`stats.bounded.log_beta_mixture`, one-sided at alpha / 2) rejects that; the bounds are the
    outer edges of buckets. `tuned_to` is the number of observations at which it is tightest. Time
    is the arm's own count, so it also holds under a bandit. Observations must be independent: one
    per unit.

    Worked by hand: q = 1/2 at alpha 0.5 after n equal observations: shares 0 and 1 are rejected in
    the end, so both bounds are the edges of the only bucket.

    Raises InsufficientData while a bound is beyond all observations: by far later than
    `quantile_interval`.

    Source: Howard & Ramdas (2022), Bernoulli 28(3), section 3 (a sequence for one quantile), by
    inverting another sequential test.
    """
    checks.open_unit(alpha, "alpha")
    lower, upper = (
        quantile_bound(sketch, q, side, alpha=alpha / 2, tuned_to=tuned_to) for side in ("lower", "upper")
    )
    if math.isinf(lower) or math.isinf(upper):
        raise InsufficientData(
            f"{sketch.n} observations do not yet bound their {q:g}-quantile at alpha {alpha:g}"
        )
    return Interval(lower, upper)


def quantile_bound(
    sketch: QuantileSketch, q: float, side: Literal["lower", "upper"], *, alpha: float, tuned_to: float
) -> float:
    """Return a bound of the q-quantile that holds at every look with probability 1 - alpha.

    Infinite while the bound lies beyond all observations: the lower bound of a high quantile is
    finite after a few observations, the upper one much later. An observation that moves up never
    lowers a bound.

    Worked by hand: see `quantile_sequence`, whose bounds are these two at alpha / 2 each.
    """
    checks.open_unit(q, "q")
    checks.open_unit(alpha, "alpha")
    n, ranks = sketch.n, sketch.ranks.tolist()
    weight = max(tuned(tuned_to, alpha=alpha, alternative="greater") - 1, 0.5)

    def rejected(rank: int, alternative: Alternative) -> bool:
        evidence = log_beta_mixture(rank, n, q, weight=weight, alternative=alternative)
        return float(evidence) >= -math.log(alpha)

    # The first bucket up to which the share is not too small, or the first up to which it is too
    # large.
    if side == "lower":
        if not n or not rejected(0, "less"):
            return -math.inf
        first = bisect_left(ranks, 1, key=lambda rank: not rejected(rank, "less"))
        return sketch.order_statistic(ranks[first])[0]
    if not n or not rejected(n, "greater"):
        return math.inf
    last = bisect_left(ranks, 1, key=lambda rank: rejected(rank, "greater"))
    return sketch.order_statistic(ranks[last])[1]


def quantile_difference_sequence(
    treatment: QuantileSketch, control: QuantileSketch, q: float, *, alpha: float, tuned_to: float
) -> Interval:
    """Return a confidence sequence for the difference of the q-quantiles, treatment - control.

    Each arm gets alpha / 2.

    Worked by hand: [8, 13] and [5, 9] leave a difference within [8 - 9, 13 - 5] = [-1, 8].

    Raises what `quantile_sequence` raises.
    """
    checks.open_unit(alpha, "alpha")
    ours = quantile_sequence(treatment, q, alpha=alpha / 2, tuned_to=tuned_to)
    theirs = quantile_sequence(control, q, alpha=alpha / 2, tuned_to=tuned_to)
    return Interval(ours.lower - theirs.upper, ours.upper - theirs.lower)


def _check_accuracy(accuracy: float) -> None:
    if not 1e-4 <= accuracy <= 0.5:
        raise InvalidInput(f"accuracy must be in [0.0001, 0.5], got {accuracy:g}")


def _log_growth(accuracy: float) -> float:
    return math.log1p(accuracy) - math.log1p(-accuracy)


def _edges(number: int, accuracy: float) -> tuple[float, float]:
    """Return the ends of a bucket, ascending. Bucket 0 is shown as the value 0."""
    if not number:
        return 0.0, 0.0
    growth = _log_growth(accuracy)
    start = math.log(SMALLEST)
    inner = math.exp(start + growth * (abs(number) - 1))
    outer = math.exp(min(start + growth * abs(number), math.log(1.7e308)))
    return (inner, outer) if number > 0 else (-outer, -inner)
