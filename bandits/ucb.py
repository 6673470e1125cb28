"""Upper confidence bounds: the arm that could be best, served as greedy choice mixed with a floor.

An index policy is deterministic, so its propensities would be 0 and 1; the floor keeps every arm
observed. Pending pulls count as if they had returned the arm's average: they narrow its bound but
do not move it. Without that, all of a batch would go to one arm. `rounds_ahead` says for how many
pulls the allocation will be in force: they are spread as the index would spread them, one small
step after the other.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

import numpy as np
from scipy import special

from bandits.allocation import Allocation, greatest, with_floor
from bandits.totals import ArmTotals, FloatArray
from stats.errors import InvalidInput

STEPS_MAX: Final = 64
"""Number of steps in which the pulls ahead are spread."""
_BISECTIONS: Final = 30
"""An upper bound in [0, 1] is then known to 1e-9."""
_LEAST: Final = np.nextafter(-1.0, 0.0)


def ucb1_index(totals: ArmTotals) -> FloatArray:
    """Return the mean plus sqrt(2 ln t / n), shape (n_arms,), infinite for an arm never pulled.

    Worked by hand: 10 of 20 after 100 pulls in all: 0.5 + sqrt(2 x 4.605 / 20) = 1.1786.

    Source: Auer, Cesa-Bianchi & Fischer (2002), Machine Learning 47, figure 1.
    """
    return _bound(totals, lambda mean, pulls, log_t: mean + np.sqrt(2 * log_t / pulls))


def ucb1_tuned_index(totals: ArmTotals) -> FloatArray:
    """Return the mean plus sqrt(ln t / n min(1/4, variance + sqrt(2 ln t / n))).

    No regret bound is proved for it.

    Worked by hand: 2 of 20 after 100 pulls: 0.09 + 0.6786 > 1/4, so 0.1 + sqrt(0.2303 / 4) = 0.34.

    Source: Auer, Cesa-Bianchi & Fischer (2002), section 4.
    """
    spread = totals.variance
    return _bound(
        totals,
        lambda mean, pulls, log_t: (
            mean + np.sqrt(log_t / pulls * np.minimum(0.25, spread + np.sqrt(2 * log_t / pulls)))
        ),
    )


def kl_ucb_index(totals: ArmTotals) -> FloatArray:
    """Return the greatest q with n kl(mean, q) <= ln t, for rewards in [0, 1].

    kl is the divergence of Bernoulli distributions.

    The paper proves its bound with ln t + 3 ln ln t and recommends this in practice.

    Worked by hand: 0 of 20 after 100 pulls: -ln(1 - q) = ln(100) / 20, so q = 1 - 100^(-1/20) =
    0.2057.

    Source: Garivier & Cappe (2011), COLT, algorithm 1 with c = 0.
    """
    return _bound(totals, lambda mean, pulls, log_t: _kl_upper(mean, log_t / pulls))


def kl_ucb_plus_index(totals: ArmTotals) -> FloatArray:
    """Return `kl_ucb_index` with ln(t / n) in place of ln t.

    It explores arms that were pulled often less.

    Worked by hand: 0 of 20 after 100 pulls: q = 1 - 5^(-1/20) = 0.0773.

    Source: Garivier & Cappe (2011), section 7; its optimality: Kaufmann (2018), Ann. Stat. 46(2).
    """
    return _bound(
        totals, lambda mean, pulls, log_t: _kl_upper(mean, np.maximum(log_t - np.log(pulls), 0.0) / pulls)
    )


IndexName = Literal["ucb1", "ucb1_tuned", "kl_ucb", "kl_ucb_plus"]
INDEXES: Final[dict[IndexName, Callable[[ArmTotals], FloatArray]]] = {
    "ucb1": ucb1_index,
    "ucb1_tuned": ucb1_tuned_index,
    "kl_ucb": kl_ucb_index,
    "kl_ucb_plus": kl_ucb_plus_index,
}
"""The index functions by name."""


def upper_bound(
    index: IndexName, totals: ArmTotals, *, exploration_floor: float, rounds_ahead: int = 1
) -> Allocation:
    """Serve the greatest index over the next `rounds_ahead` pulls, mixed with the floor.

    Ties share evenly.

    Regret bounds are proved without a floor and with one pull per allocation.

    Raises InvalidInput if rounds_ahead < 1, exploration_floor is not in [0, 1] or rewards are
    outside [0, 1].
    """
    totals.check_unit_rewards()
    return with_floor(shares_ahead(index, totals, rounds_ahead), exploration_floor)


def shares_ahead(index: IndexName, totals: ArmTotals, rounds_ahead: int) -> FloatArray:
    """Return the parts of the next `rounds_ahead` pulls that each arm gets, shape (..., n_arms).

    Raises InvalidInput if rounds_ahead < 1.
    """
    if rounds_ahead < 1:
        raise InvalidInput(f"rounds_ahead must be at least 1, got {rounds_ahead}")
    steps = min(rounds_ahead, STEPS_MAX)
    shares = np.zeros_like(totals.n)
    for _ in range(steps):
        step = greatest(INDEXES[index](totals))
        shares += step
        totals = replace(totals, pending=totals.pending + step * (rounds_ahead / steps))
    return shares / steps


def bernoulli_divergence(p: FloatArray, q: FloatArray) -> FloatArray:
    """Return the divergence p ln(p / q) + (1 - p) ln((1 - p) / (1 - q)) of Bernoulli means.

    It may be infinite.

    Of p and q that agree in k digits it keeps about 16 - k.

    Worked by hand: p = 0.5, q = 0.25: 0.5 ln 2 + 0.5 ln(2/3) = 0.1438.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        # A ratio that rounds to 0 would make what it weighs next to nothing with infinite.
        success, failure = np.maximum((p - q) / q, _LEAST), np.maximum((q - p) / (1 - q), _LEAST)
        divergence = special.xlog1py(p, success) + special.xlog1py(1 - p, failure)
    return np.where(p == q, 0.0, divergence)


def _bound(
    totals: ArmTotals, bound: Callable[[FloatArray, FloatArray, FloatArray], FloatArray]
) -> FloatArray:
    """Return `bound(mean, pulls, ln t)`; infinite for an arm never pulled.

    An arm whose rewards are all pending counts as if its average were 1/2.
    """
    pulls = totals.n + totals.pending
    log_t = np.log(np.maximum(pulls.sum(axis=-1, keepdims=True), 1.0))
    mean = np.where(totals.n > 0, totals.mean, 0.5)
    return np.where(pulls > 0, bound(mean, np.where(pulls > 0, pulls, 1.0), log_t), np.inf)


def _kl_upper(mean: FloatArray, level: FloatArray) -> FloatArray:
    """Return the greatest q in [mean, 1] with kl(mean, q) <= level.

    It is found by bisection below Pinsker's bound.
    """
    low, high = mean.copy(), np.minimum(mean + np.sqrt(level / 2), 1.0)
    rest, least = 1 - mean, special.xlogy(mean, mean) + special.xlog1py(1 - mean, -mean) - level
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        inside = least <= special.xlogy(mean, middle) + special.xlog1py(rest, -middle)
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return low
