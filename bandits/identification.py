"""Best-arm identification at confidence 1 - delta, at any time and under any allocation.

Against every rival j of the leader i stands an e-process for "mean_j >= mean_i + indifference".
Take a level m, and bet that i is above it and j below m + indifference = m'. With tilts a, b >= 0
the stake

    M_m = sum over bets (a, b) of weight x product over rewards r of i of exp(a r) / (1 + m (exp(a) - 1))
                                         x product over rewards r of j of exp(-b r) / (1 - m' (1 - exp(-b)))

is a non-negative supermartingale that starts at 1 if mean_i <= m and mean_j >= m', for every rule
that chooses arms from the past. The reason is that exp is convex, so for rewards in [0, 1] exp(a r)
<= 1 + r (exp(a) - 1) and exp(-b r) <= 1 - r (1 - exp(-b)), and each factor has an expectation of at
most 1. Under the hypothesis m = mean_i satisfies this. It is unknown, but E_ij, the infimum of M_m
over all m, is at most that M_m. So the probability that E_ij ever reaches (K - 1) / delta is at
most delta / (K - 1) (Ville). Suppose the arm declared best is not within `indifference` of the
best. Then its E against the truly best arm reached the threshold, and it is one of K - 1 wrong
arms. So the error is at most delta in all. Weights cost power, never validity.

The infimum costs next to nothing. A bet is a gap g in log-odds and a split s: a = g (1 - s), b = g
s. In the normal approximation, m cancels out of a bet whose s is the leader's part of the pair's
rewards. So the infimum is about the stake at the average of both. For parts between those of
`_SPLITS`, bets on both sides balance. What is paid is for not knowing the gap: 2.5 in log E, on 24
random pairs on which sizes and weights were chosen. Jeffreys' prior on both means over the greatest
likelihood of the hypothesis pays for the level too, 8.6. That kind (Wasserman et al., 2020) is what
this replaces. The logarithm of M_m is convex in m, as that of each bet is: so its infimum is found
for certain, and tangents bound it from below.

Means may change as long as a level stays between them. Not covered is feedback that is missing for
reasons that have to do with its value.

Sources: Ville (1939), Etude critique de la notion de collectif; mixtures over alternatives, Robbins
(1970), Annals of Mathematical Statistics 41(5); the factor for rewards in [0, 1], Hoeffding (1963),
JASA 58(301), eq. 4.1. The infimum over levels is derived here. Universal inference: Wasserman,
Ramdas & Balakrishnan (2020), PNAS 117(29), section 7. The safe tests of two samples by Turner, Ly &
Gruenwald (2024) want blocks with fixed numbers of rewards of both arms, which an adaptive
allocation does not give.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandits.allocation import Allocation, greatest, with_floor
from bandits.totals import ArmTotals, FloatArray
from bandits.ucb import bernoulli_divergence
from stats import checks
from stats.errors import InvalidInput

_JEFFREYS: Final = 0.5
_LOG2_GAPS: Final = np.arange(-14.0, 4.0)
_LIKELY_LOG2_GAP: Final = -2.0
_SPLITS: Final = {0.0: 0.02, 0.25: 0.08, 0.5: 0.4, 0.75: 0.2, 0.9: 0.2, 1.0: 0.1}
"""Weights of the leader's part of a pair's rewards. With 0 and 1 among them no split is lost."""
_ACCURACY: Final = 1e-6
_STEPS_MAX: Final = 200
_NEWTON_MAX: Final = 60
_LEVELS: Final = 48
_ROUNDS: Final = 4
"""Number of grids, each inside a cell of the last: they find a root to 1e-6 of its range.
"""


@dataclass(frozen=True, slots=True)
class Undecided:
    """No winner yet: the leader, its weakest log evidence, and the log threshold."""

    leader: int
    log_evidence: float
    log_threshold: float


@dataclass(frozen=True, slots=True)
class Winner:
    """The arm declared best after `n` rewards, with its log evidence and log threshold then."""

    arm: int
    n: float
    log_evidence: float
    log_threshold: float


Decision = Undecided | Winner


def decide(
    totals: ArmTotals, *, delta: float, indifference: float = 0.0, previous: Decision | None = None
) -> Decision:
    """Return whether the best arm is known, for rewards in [0, 1]. It is valid at every look.

    A winner stays: if `previous` is a `Winner`, it is returned as it is. The probability that an
    arm ever wins whose mean is more than `indifference` below the greatest is at most delta.

    Worked by hand: 10 of 10 against 0 of 10. The bet with gap 8 and split 1/2 has a = b = 4, and
    stakes exp(40) / ((1 + m (e^4 - 1)) (1 - m (1 - e^-4)))^10, least at m = 1/2: exp(40) /
    cosh(2)^20 = exp(13.50). Its weight is 0.4 / 26 / 2.894 = exp(-5.24). So log E is at least 8.26,
    more than log 20: the first wins.

    Raises InvalidInput if there are fewer than 2 arms, rewards outside [0, 1], delta not in (0, 1)
    or indifference not in [0, 1).
    """
    totals.check_unit_rewards()
    if not 0 <= indifference < 1:
        raise InvalidInput(f"indifference must be in [0, 1), got {indifference:g}")
    checks.open_unit(delta, "delta")
    if totals.n_arms < 2:
        raise InvalidInput("needs at least 2 arms")
    if isinstance(previous, Winner):
        return previous
    threshold = math.log((totals.n_arms - 1) / delta)
    leader = int(np.where(totals.n > 0, totals.mean, -np.inf).argmax())
    # Nothing is known of an arm without rewards: no stake against it has moved.
    known = bool((totals.n > 0).all())
    weakest = _least_evidence(_Pairs.of(totals, leader, indifference)) if known else 0.0
    if weakest >= threshold:
        return Winner(leader, float(totals.n.sum()), weakest, threshold)
    return Undecided(leader, weakest, threshold)


def track_and_stop(totals: ArmTotals, *, exploration_floor: float) -> Allocation:
    """Return the shares that identify the best of Bernoulli arms with the fewest rewards.

    They are optimal at the averages so far. They are mixed with the floor, which must be positive:
    it is the forced exploration that corrects wrong averages. (The paper forces about sqrt(t) pulls
    of each arm; a floor forces a fixed part.) Shares are even while an arm has no reward. Half a
    success and half a failure are added to each arm.

    Worked by hand: two arms with means 0.4 and 0.6 are mirror images, so shares are 1/2 and 1/2.

    Raises InvalidInput if exploration_floor is not in (0, 1] or rewards are outside [0, 1].

    Source: Garivier & Kaufmann (2016), COLT, theorem 5 (shares) and section 3.1 (tracking).
    """
    totals.check_unit_rewards()
    if not 0 < exploration_floor <= 1:
        raise InvalidInput(f"exploration_floor must be in (0, 1], got {exploration_floor:g}")
    if (totals.n == 0).any():
        return with_floor(np.full(totals.n_arms, 1 / totals.n_arms), exploration_floor)
    mean = (totals.sum + _JEFFREYS) / (totals.n + 2 * _JEFFREYS)
    return with_floor(optimal_shares(mean), exploration_floor)


def optimal_shares(mean: FloatArray) -> FloatArray:
    """Return the shares that maximise the weakest pair's evidence, shape (n_arms,).

    Evidence is counted per reward of Bernoulli arms with these means, in (0, 1). If several arms
    are best, they share all traffic evenly.

    Worked by hand: see `track_and_stop`. Agrees with the paper's figures: means (0.5, 0.45, 0.43,
    0.4) give (0.417, 0.390, 0.136, 0.057); (0.3, 0.21, 0.2, 0.19, 0.18) give (0.336, 0.251, 0.177,
    0.132, 0.104).

    Source: Garivier & Kaufmann (2016), theorem 5.
    """
    best = greatest(mean)
    if best.max() < 1:
        return best
    leader, rivals = mean.max(), mean[best == 0]
    if not rivals.size:
        return best
    top = float(bernoulli_divergence(np.array(leader), rivals).min())
    low, high = 0.0, top
    odds = np.zeros_like(rivals)
    for _ in range(_ROUNDS):
        level = np.linspace(low, high, _LEVELS + 2)[1:-1]
        odds, ratio = _odds(leader, rivals, level)
        # The ratio increases with the level from 0 to infinity: the shares are where it is 1.
        cell = int(np.searchsorted(ratio, 1.0))
        odds = odds[min(cell, _LEVELS - 1)]
        low, high = (level[cell - 1] if cell else low), (level[cell] if cell < _LEVELS else high)
    shares = np.empty_like(mean)
    shares[best > 0] = 1.0
    shares[best == 0] = odds
    normalised: FloatArray = shares / shares.sum()
    return normalised


class _Bets(NamedTuple):
    """Bets that the leader is above a level, and its rival below, by tilts of shape (bets,)."""

    lead: FloatArray
    lag: FloatArray
    log_weight: FloatArray

    @classmethod
    def of_gaps(cls) -> "_Bets":
        """Return all gaps with all splits.

        Weights fall with the square of the distance from the likely size.
        """
        gap = 2 ** _LOG2_GAPS[:, None]
        split, share = np.array(list(_SPLITS)), np.array(list(_SPLITS.values()))
        weight = share / (1 + (_LOG2_GAPS[:, None] - _LIKELY_LOG2_GAP) ** 2)
        log_weight = np.log(weight / weight.sum())
        return cls((gap * (1 - split)).ravel(), (gap * split).ravel(), log_weight.ravel())


_BETS: Final = _Bets.of_gaps()
_UP: Final = np.expm1(_BETS.lead)
_DOWN: Final = -np.expm1(-_BETS.lag)


class _Pairs(NamedTuple):
    """Totals of the leader, of its rivals (shape (rivals, 1)), and the indifference."""

    n: float
    sum: float
    rival_n: FloatArray
    rival_sum: FloatArray
    indifference: float

    @classmethod
    def of(cls, totals: ArmTotals, leader: int, indifference: float) -> "_Pairs":
        rivals = np.delete(np.arange(totals.n_arms), leader)[:, None]
        n, total = totals.n, totals.sum
        return cls(float(n[leader]), float(total[leader]), n[rivals], total[rivals], indifference)

    @property
    def level(self) -> FloatArray:
        """Pooled average with the rival's rewards less the indifference, shape (rivals, 1)."""
        pooled = self.sum + self.rival_sum - self.indifference * self.rival_n
        return np.asarray(pooled / (self.n + self.rival_n))

    @property
    def won(self) -> FloatArray:
        """Log winnings of the bets before they pay for the level, shape (rivals, bets)."""
        return np.asarray(_BETS.log_weight + _BETS.lead * self.sum - _BETS.lag * self.rival_sum)

    def among(self, rivals: NDArray[np.bool_]) -> "_Pairs":
        """Return the pairs with these rivals only."""
        return self._replace(rival_n=self.rival_n[rivals], rival_sum=self.rival_sum[rivals])


class _Price(NamedTuple):
    """Log price of a level for each bet, and its first two derivatives, shape (rivals, bets)."""

    value: FloatArray
    slope: FloatArray
    curvature: FloatArray


def _price(pairs: _Pairs, level: FloatArray) -> _Price:
    above, below = 1 + level * _UP, 1 - (level + pairs.indifference) * _DOWN
    value = pairs.n * np.log(above) + pairs.rival_n * np.log(below)
    up, down = _UP / above, _DOWN / below
    slope, rival_slope = pairs.n * up, pairs.rival_n * down
    return _Price(value, slope - rival_slope, -(slope * up + rival_slope * down))


def _least_evidence(pairs: _Pairs) -> float:
    """Return the least logarithm of the stakes over rivals, and for each rival over all levels.

    The result exceeds the least by rounding only, and is below it by at most `_ACCURACY`: a stake
    is log-convex in the level, so it lies above its tangents. The search is Newton's method, which
    halves the interval at every fourth step and where a step would leave it. If `_STEPS_MAX` steps
    are too few, the result is still a lower bound.
    """
    low = np.zeros_like(pairs.rival_n)
    high = low + (1 - pairs.indifference)
    level = np.clip(pairs.level, low, high)
    least, greatest_bound = np.full_like(level, np.inf), np.full_like(level, -np.inf)
    for step in range(_STEPS_MAX):
        value, slope, curvature = _price(pairs, level)
        terms = pairs.won - value
        top = terms.max(axis=1, keepdims=True)
        share = np.exp(terms - top)
        total = share.sum(axis=1, keepdims=True)
        stake = top + np.log(total)
        share /= total
        rise = -(share * slope).sum(axis=1, keepdims=True)
        drop = np.maximum(rise * (level - low), rise * (level - high))
        least, greatest_bound = np.minimum(least, stake), np.maximum(greatest_bound, stake - drop)
        if least.min() - greatest_bound.min() <= _ACCURACY:
            break
        bend = (share * (slope**2 - curvature)).sum(axis=1, keepdims=True) - rise**2
        newton = level - rise / np.where(bend > 0, bend, np.inf)
        low, high = np.where(rise < 0, level, low), np.where(rise < 0, high, level)
        inside = (low < newton) & (newton < high) & (step % 4 < 3)
        level = np.where(inside, newton, 0.5 * (low + high))
        # A rival whose infimum is above another's stake is not the one with the least.
        open_ = (greatest_bound <= least.min())[:, 0]
        pairs = pairs.among(open_)
        low, high, level = low[open_], high[open_], level[open_]
        least, greatest_bound = least[open_], greatest_bound[open_]
    return float(greatest_bound.min())


def _odds(leader: float, rivals: FloatArray, level: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return shares relative to the leader's at levels of evidence, (l, rivals), and a sum, (l,).

    The sum is over kl(leader, m) / kl(rival, m) at the mean m of leader and rival with those
    weights. Newton's method finds them: evidence is concave in the odds, with the slope kl(rival,
    m), so no step from below goes too far.
    """
    odds = np.zeros((len(level), len(rivals)))
    for _ in range(_NEWTON_MAX):
        middle = (leader + odds * rivals) / (1 + odds)
        for_leader = bernoulli_divergence(np.array(leader), middle)
        slope = bernoulli_divergence(rivals, middle)
        missing = np.maximum(level[:, None] - for_leader - odds * slope, 0.0)
        step = np.divide(missing, slope, out=np.zeros_like(odds), where=slope > 0)
        odds += step
        if (step <= 1e-10 * odds).all():
            break
    middle = (leader + odds * rivals) / (1 + odds)
    ratio = bernoulli_divergence(np.array(leader), middle) / bernoulli_divergence(rivals, middle)
    return odds, ratio.sum(axis=1)
