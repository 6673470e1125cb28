"""Segments: arms whose rates differ between declared groups of units, with partial pooling.

The rate of an arm in segment s is drawn from a Beta(mu kappa, (1 - mu) kappa) of that arm. Where segments
agree, kappa is large and a thin segment borrows nearly everything from the others; where they differ, it
stands on its own. Both are learned from the totals of all segments, for each arm alone.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy import special

from bandits.arms import BetaArms, FloatArray, answers_per_reward
from bandits.totals import ArmTotals
from stats.errors import InvalidInput
from stats.totals import RewardTotals

SEGMENTS_MAX: Final = 1_000

_KAPPA_MIN: Final = 1.0
_LOG_RATIO_MAX: Final = 12.0  # of kappa to the size of segments: they agree for all purposes
_KAPPA_NODES: Final = 41
_MU_STEPS: Final = np.linspace(-9, 9, 41)


class Pooled(NamedTuple):
    """Arms of every segment, and how strongly the segments of each arm were drawn together.

    `segments[s]` are the arms in segment s. `shrinkage[k]`, in (0, 1), is how far the rate of arm k in a
    segment of middling size is drawn towards that of all segments: near 1 they agree, near 0 each stands
    alone.
    """

    segments: tuple[BetaArms, ...]
    shrinkage: FloatArray


def partially_pooled(totals: Sequence[Sequence[RewardTotals]]) -> Pooled:
    """Posterior rates of each arm in each segment; `totals[s][k]` are those of arm k in segment s.

    The prior of mu is uniform, that of kappa the one of a uniform shrinkage kappa / (kappa + m), cut off at
    kappa = 1, where m is the mean size of the segments that have any rewards. Both are integrated out on a
    grid, so that few segments leave the borrowing itself uncertain; the mixture of Betas which that gives in
    a segment is served as the Beta with its mean and variance. A fractional reward counts for as many answers
    of yes or no as it is worth (`bandits.arms.answers_per_reward`), learned within the segments of its arm
    together. Segments that are served by one allocation need no pooling; the arms of
    `segments[s]` go to `bandits.best.probability_best` or `bandits.allocation.thompson` as they are.

    Worked by hand: without any reward all rates are uniform in expectation: mean 1/2 everywhere.

    Raises InvalidInput if there are no segments or more than SEGMENTS_MAX, they differ in their number of
    arms, or a sum of rewards is not between 0 and n.

    Source: Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., sec. 5.3, for the model; Christiansen &
    Morris (1997), JASA 92(438), for the uniform-shrinkage prior. Theirs, like ours, sees the sizes of
    segments.
    """
    if not 1 <= len(totals) <= SEGMENTS_MAX:
        raise InvalidInput(f"there must be between 1 and {SEGMENTS_MAX} segments, got {len(totals)}")
    n_arms = len(totals[0])
    if not n_arms or any(len(arms) != n_arms for arms in totals):
        raise InvalidInput("every segment must have the same arms, at least one")
    n, rewards, squares = (
        np.array([[getattr(total, name) for total in arms] for arms in totals], dtype=np.float64)
        for name in ("n", "sum", "sum_squares")
    )
    seen = ArmTotals(n, rewards, squares, np.zeros_like(n))
    seen.check_unit_rewards()
    worth = answers_per_reward(seen, alike_over=0)
    n, rewards = worth * n, worth * rewards
    arms = [_pooled_arm(n[:, arm], rewards[:, arm]) for arm in range(n_arms)]
    alpha = np.stack([arm.alpha for arm in arms], axis=1)
    beta = np.stack([arm.beta for arm in arms], axis=1)
    segments = tuple(BetaArms(*parameters) for parameters in zip(alpha, beta, strict=True))
    return Pooled(segments, np.array([arm.shrinkage for arm in arms]))


class _Arm(NamedTuple):
    alpha: FloatArray  # (s,)
    beta: FloatArray  # (s,)
    shrinkage: float


def _pooled_arm(n: FloatArray, rewards: FloatArray) -> _Arm:
    """Integrate over log kappa on a grid that is twice laid anew where its mass turned out to be."""
    seen = n > 0
    size = float(n[seen].mean()) if seen.any() else 1.0
    log_kappa = np.linspace(math.log(_KAPPA_MIN), math.log(size) + _LOG_RATIO_MAX, _KAPPA_NODES)
    logit, weight = _weights(log_kappa, n[seen], rewards[seen], size)
    for _ in range(2):
        log_kappa = _narrowed(log_kappa, weight.sum(axis=1))
        logit, weight = _weights(log_kappa, n[seen], rewards[seen], size)
    kappa = np.exp(log_kappa)[:, None]
    shrinkage = weight.sum(axis=1) @ (kappa / (kappa + size))[:, 0]
    weight = weight.ravel()
    alpha = (kappa * special.expit(logit)).ravel()[:, None] + rewards
    beta = (kappa * special.expit(-logit)).ravel()[:, None] + (n - rewards)
    mean = alpha / (alpha + beta)
    overall = weight @ mean
    variance = weight @ (mean * (1 - mean) / (alpha + beta + 1) + (mean - overall) ** 2)
    strength = overall * (1 - overall) / variance - 1
    return _Arm(overall * strength, (1 - overall) * strength, float(shrinkage))


def _narrowed(nodes: FloatArray, weight: FloatArray) -> FloatArray:
    """As many nodes over six deviations either side of the mean, and a step more, but never further."""
    mean = float(weight @ nodes)
    reach = 6 * math.sqrt(float(weight @ (nodes - mean) ** 2)) + float(nodes[1] - nodes[0])
    return np.linspace(max(nodes[0], mean - reach), min(nodes[-1], mean + reach), len(nodes))


def _weights(
    log_kappa: FloatArray, n: FloatArray, rewards: FloatArray, size: float
) -> tuple[FloatArray, FloatArray]:
    """Nodes of the logit of mu for each kappa, and the posterior there, summing to 1; shape (kappa, mu).

    Given kappa a segment tells of mu what n kappa / (n + kappa) rewards would: that says where the nodes of
    mu are needed, which for a large kappa is a place that no common grid would hit.
    """
    kappa = np.exp(log_kappa)[:, None]
    worth = n * kappa / (n + kappa)
    rows = worth.sum(axis=1, keepdims=True) + 1
    centre = ((worth * (rewards / n)).sum(axis=1, keepdims=True) + 0.5) / rows
    deviation = 1 / np.sqrt(rows * centre * (1 - centre))
    logit = special.logit(centre) + deviation * _MU_STEPS
    mu, rest = special.expit(logit), special.expit(-logit)
    # Uniform mu and uniform shrinkage, as densities of the logit and of log kappa.
    ratio = kappa / size
    log_weight = np.log(mu) + np.log(rest) + np.log(deviation) + np.log(ratio) - 2 * np.log1p(ratio)
    for count, total in zip(n, rewards, strict=True):
        log_weight += _log_rising(kappa * mu, total) + _log_rising(kappa * rest, count - total)
        log_weight -= _log_rising(kappa, count)
    # The trapezoidal rule: kappa's lower end is no tail.
    log_weight[[0, -1]] -= math.log(2)
    weight: FloatArray = np.exp(log_weight - special.logsumexp(log_weight))
    return logit, weight


def _log_rising(start: FloatArray, steps: float) -> FloatArray:
    """log(Gamma(start + steps) / Gamma(start))."""
    rising: FloatArray = special.gammaln(start + steps) - special.gammaln(start)
    return rising
