"""Allocations: the share of traffic that each arm gets, and what any policy may do with one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bandits.totals import FloatArray
from stats import checks
from stats.errors import InvalidInput

_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """Shares of traffic, shape (n_arms,): non-negative, summing to 1.

    Raises ValueError if they are not.
    """

    shares: FloatArray

    def __post_init__(self) -> None:
        if self.shares.ndim != 1 or not (self.shares >= 0).all():
            raise InvalidInput(f"shares must be a vector of non-negative numbers, got {self.shares}")
        if not abs(self.shares.sum() - 1) <= _TOLERANCE:
            raise InvalidInput(f"shares must sum to 1, got {self.shares.sum():g}")


def fixed(weights: Sequence[float]) -> Allocation:
    """Return the declared weights, whatever was observed."""
    return Allocation(np.array(weights, dtype=np.float64))


def with_floor(shares: FloatArray, exploration_floor: float) -> Allocation:
    """Mix shares with an even split: (1 - eps) shares + eps / n_arms.

    So every arm stays observed.

    Raises InvalidInput if exploration_floor (eps) is not in [0, 1].

    Worked by hand: shares 1 and 0 with a floor of 0.1 give 0.95 and 0.05.
    """
    checks.closed_unit(exploration_floor, "exploration_floor")
    return Allocation((1 - exploration_floor) * shares + exploration_floor / len(shares))


def greatest(score: FloatArray) -> FloatArray:
    """Return 1 for the greatest score, even parts of 1 for ties, and else 0; shape (..., n_arms).

    Raises InvalidInput if a score is not a number.
    """
    if np.isnan(score).any():
        raise InvalidInput("scores must be numbers")
    best = score == score.max(axis=-1, keepdims=True)
    shares: FloatArray = best / best.sum(axis=-1, keepdims=True)
    return shares


def limited(previous: Allocation, new: Allocation, *, step_max: float) -> Allocation:
    """Go from `previous` towards `new`, until the share of an arm has moved by `step_max`.

    All shares move by the same fraction of their distance. So the result keeps each property that
    both allocations have: a floor, the order of two arms, a sum of 1. With delayed feedback a cap
    limits how far a posterior from few rewards moves the shares before the other rewards arrive. It
    also delays correct moves.

    Raises InvalidInput if step_max is not in (0, 1] or the allocations differ in their number of
    arms.

    Worked by hand: from 1/2, 1/2 to 0.9, 0.1 with 0.1 at most: 0.6, 0.4.
    """
    if not 0 < step_max <= 1:
        raise InvalidInput(f"step_max must be in (0, 1], got {step_max:g}")
    move = _difference(previous, new)
    furthest = np.abs(move).max()
    if furthest <= step_max:
        return new
    # Rounding may leave a share that goes to 0 below it.
    return Allocation(np.maximum(previous.shares + move * (step_max / furthest), 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The difference that another policy would have made with the same totals.

    `moved` is the part of traffic that would have gone to another arm (total variation distance).
    `change` is the difference of each arm's share, shape (n_arms,). `gain` is the expected
    difference of the reward per pull at the given means. It rests on the data of the policy in
    force, and not on an experiment with the other policy.
    """

    moved: float
    change: FloatArray
    gain: float


def compare(current: Allocation, shadow: Allocation, mean: FloatArray) -> Comparison:
    """Compare the shares of a shadow policy with those in force.

    A shadow policy reads what the current policy reads, and serves nothing.

    Raises InvalidInput if the numbers of arms differ.

    Worked by hand: 1/2, 1/2 against 0.8, 0.2 at means 0.3, 0.1: 0.3 of the traffic moves, and a
    pull earns 0.3 x 0.3 - 0.3 x 0.1 = 0.06 more.
    """
    change = _difference(current, shadow)
    if mean.shape != change.shape:
        raise InvalidInput("mean must have a number for each arm")
    return Comparison(float(0.5 * np.abs(change).sum()), change, float(change @ mean))


def _difference(first: Allocation, second: Allocation) -> FloatArray:
    if first.shares.shape != second.shares.shape:
        raise InvalidInput("allocations must have the same number of arms")
    difference: FloatArray = second.shares - first.shares
    return difference
