"""A/A: what happens where nothing differs, on made-up splits of real data.

* `uniformity` judges p-values of many A/A comparisons: those of a valid test are uniform, or larger.
* `noise_floor` is the difference that chance alone makes in one metric.
* `false_positive_rate` measures a decision rule, as it is used, on the values of the control.

How many A/A tests "are significant by chance" is alpha, 5 % at 0.05; with heavy-tailed or rare metrics and
few units a t-test's share is 3 to 4 % (or 1 % at 1 event per arm), because its p-values are then too large.
That is caution, not a fault, so nothing here complains about shares below alpha; above alpha, it does.
"""

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import special

from stats import checks
from stats.errors import InsufficientData, InvalidInput
from stats.interval import Interval
from stats.proportions import exact_interval
from stats.tails import log_binomial_upper
from stats.totals import MeanTotals, ProportionTotals

Rule = Callable[[MeanTotals, MeanTotals], bool]
"""Whether something would be decided, from totals of control and treatment at a look."""

_P_VALUES_MIN = 20


class Uniformity(msgspec.Struct, frozen=True):
    """How p-values of A/A comparisons are distributed.

    `share` of the `n` p-values are below alpha. `excess_p_value` is small if that share is above alpha by
    more than chance; `too_small_p_value` if p-values are smaller than uniform ones anywhere (one-sided
    Kolmogorov-Smirnov); `ks_p_value` if they differ from uniform in any way, larger ones included: cautious
    tests fail that one.
    """

    n: int
    share: float
    excess_p_value: float
    too_small_p_value: float
    ks_p_value: float


def uniformity(p_values: npt.ArrayLike, *, alpha: float = 0.05) -> Uniformity:
    """Judge *independent* A/A p-values, shape (n,).

    Worked by hand: 100 p-values of which 14 are below 0.05: P(14 or more of 100 at 0.05) = 0.0005.
    Raises InsufficientData below 20 p-values; InvalidInput if one is not in [0, 1].
    """
    from scipy.stats import kstest  # noqa: PLC0415  (takes a second to load, which servers do not wait for)

    checks.open_unit(alpha, "alpha")
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise InvalidInput("p_values must be one row of numbers within [0, 1]")
    checks.n_at_least(p.size, _P_VALUES_MIN, "p-values")
    below = int((p < alpha).sum())
    return Uniformity(
        int(p.size),
        below / p.size,
        math.exp(log_binomial_upper(below, int(p.size), alpha)),
        float(kstest(p, "uniform", alternative="greater").pvalue),
        float(kstest(p, "uniform").pvalue),
    )


class NoiseFloor(msgspec.Struct, frozen=True):
    """The difference between two equal parts of the same units that chance exceeds with probability alpha.

    `relative` is to the mean: None where the mean is 0.
    """

    absolute: float
    relative: float | None


def noise_floor(totals: MeanTotals, *, alpha: float = 0.05) -> NoiseFloor:
    """Of one metric, for a fixed look at its units split in halves: z sd sqrt(4 / n).

    An observed effect below it says nothing. Everything scales with 1 / sqrt(n).

    Worked by hand: 10,000 units with mean 2 and sd 1: 1.96 * 0.02 = 0.0392, 1.96 % of the mean.
    Raises InsufficientData below 2 units or without any spread.
    """
    checks.open_unit(alpha, "alpha")
    if not totals.variance:
        raise InsufficientData("the observations have no spread, so nothing says how sure they make us")
    absolute = -float(special.ndtri(alpha / 2)) * math.sqrt(totals.variance * 4 / totals.n)
    return NoiseFloor(absolute, absolute / abs(totals.mean) if totals.mean else None)


class MeasuredRate(msgspec.Struct, frozen=True):
    """How often a rule decided although nothing differed, with its 95 % interval (Clopper & Pearson 1934)."""

    decisions: int
    replays: int
    interval: Interval

    @classmethod
    def of(cls, decisions: int, replays: int) -> "MeasuredRate":
        """With its interval.

        Raises InsufficientData without replays, InvalidInput unless 0 <= decisions <= replays.
        """
        return cls(decisions, replays, exact_interval(ProportionTotals(replays, decisions), alpha=0.05))

    @property
    def rate(self) -> float:
        """Decisions per replay."""
        return self.decisions / self.replays


def false_positive_rate(
    values: npt.ArrayLike,
    rule: Rule,
    *,
    looks: Sequence[int],
    replays: int,
    rng: np.random.Generator,
    treatment_share: float = 0.5,
) -> MeasuredRate:
    """Split the control's units at random, look as the rule does, and count how often it decides.

    `values`, shape (n,), one per unit in order of arrival: only the assignment is drawn anew, so drift over
    time stays in. `looks` are numbers of units after which the rule is asked; a replay ends with its first
    decision. A rule that raises InsufficientData has not decided.

    Worked by hand: a rule that always decides has rate 1.
    Raises InvalidInput unless looks increase within [1, n], replays is positive and the share in (0, 1).
    """
    checks.open_unit(treatment_share, "treatment_share")
    checks.positive(replays, "replays")
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise InvalidInput("values must be one row of finite numbers")
    ends = np.asarray(looks, dtype=int)
    if not ends.size or ends[0] < 1 or ends[-1] > x.size or (np.diff(ends) <= 0).any():
        raise InvalidInput(f"looks must increase within [1, {x.size}]")
    decisions = sum(_decides(x, rule, ends, rng, treatment_share) for _ in range(replays))
    return MeasuredRate.of(decisions, replays)


def _decides(
    x: npt.NDArray[np.float64],
    rule: Rule,
    ends: npt.NDArray[np.int_],
    rng: np.random.Generator,
    treatment_share: float,
) -> bool:
    in_treatment = rng.random(x.size) < treatment_share
    centre = float(x.mean())  # Sums of centred values keep their digits.
    totals = []
    for arm in (~in_treatment, in_treatment):
        deviation = np.where(arm, x - centre, 0.0)
        n, total, squares = np.cumsum(arm), np.cumsum(deviation), np.cumsum(deviation**2)
        totals.append((n[ends - 1], total[ends - 1], squares[ends - 1]))
    for look in range(len(ends)):
        control, treatment = (
            _moments(int(n[look]), float(s[look]), float(q[look]), centre) for n, s, q in totals
        )
        try:
            if rule(control, treatment):
                return True
        except InsufficientData:
            continue
    return False


def _moments(n: int, total: float, squares: float, centre: float) -> MeanTotals:
    return MeanTotals(n, centre + total / n, max(squares - total**2 / n, 0.0)) if n else MeanTotals()
