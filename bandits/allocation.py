"""Allocations: the share of traffic that each arm gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bandits.arms import BetaArms, FloatArray
from bandits.best import probability_best

_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """Shares of traffic, shape (n_arms,): non-negative, summing to 1.

    Raises ValueError if they are not.
    """

    shares: FloatArray

    def __post_init__(self) -> None:
        if self.shares.ndim != 1 or not (self.shares >= 0).all():
            raise ValueError(f"shares must be a vector of non-negative numbers, got {self.shares}")
        if not abs(self.shares.sum() - 1) <= _TOLERANCE:
            raise ValueError(f"shares must sum to 1, got {self.shares.sum():g}")


def fixed(weights: Sequence[float]) -> Allocation:
    """The declared weights, whatever has been observed."""
    return Allocation(np.array(weights, dtype=np.float64))


def thompson(arms: BetaArms, *, exploration_floor: float) -> Allocation:
    """Thompson sampling by probability matching: each arm's share is the probability that it is best.

    `exploration_floor` (eps) keeps every arm observed: shares are (1 - eps) P(best) + eps / n_arms. With
    eps = 0 drawing from the shares is Thompson sampling itself, its propensities known. What is proved
    about Thompson sampling (logarithmic regret) assumes eps = 0 and an update after every reward; with a
    floor, regret grows linearly at eps times the mean gap.

    Worked by hand: two equal arms get 1/2 each; an arm that is certainly best gets 1 - eps / 2.

    Raises ValueError if exploration_floor is not in [0, 1].

    Source: Thompson (1933), Biometrika 25(3/4); Russo et al. (2018), A Tutorial on Thompson Sampling.
    """
    if not 0 <= exploration_floor <= 1:
        raise ValueError(f"exploration_floor must be in [0, 1], got {exploration_floor:g}")
    floor = exploration_floor / len(arms.alpha)
    return Allocation((1 - exploration_floor) * probability_best(arms) + floor)
