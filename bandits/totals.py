"""Totals that policies read: sums over the rewards of every arm, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stats import checks
from stats.errors import InvalidInput
from stats.totals import RewardTotals

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ArmTotals:
    """Number of rewards, sum, sum of squares, and pulls whose reward is pending, by arm.

    Arrays of shape (n_arms,), or (..., n_arms) where many runs are simulated at once. `n` need not
    be whole: forgetting leaves an effective number. Totals merge by addition.

    Raises InvalidInput unless the shapes agree, there is an arm, everything is finite, and nothing
    but `sum` is negative.
    """

    n: FloatArray
    sum: FloatArray
    sum_squares: FloatArray
    pending: FloatArray

    def __post_init__(self) -> None:
        fields = (self.n, self.sum, self.sum_squares, self.pending)
        if not self.n.ndim or not self.n.size or any(field.shape != self.n.shape for field in fields):
            raise InvalidInput("n, sum, sum_squares and pending must all have the shape (..., n_arms)")
        if not all(np.isfinite(field).all() for field in fields):
            raise InvalidInput("totals must be finite")
        if not ((self.n >= 0).all() and (self.sum_squares >= 0).all() and (self.pending >= 0).all()):
            raise InvalidInput("n, sum_squares and pending must be at least 0")

    @classmethod
    def of(cls, totals: "Sequence[RewardTotals] | ArmTotals", pending: Sequence[int] = ()) -> "ArmTotals":
        """Collect the totals of each arm; by default nothing is pending."""
        if isinstance(totals, ArmTotals):
            return totals
        n, rewards, squares = (
            np.array([getattr(total, name) for total in totals], dtype=np.float64)
            for name in ("n", "sum", "sum_squares")
        )
        return cls(n, rewards, squares, np.array(pending or [0] * len(totals), dtype=np.float64))

    def __add__(self, other: Self) -> "ArmTotals":
        return ArmTotals(
            self.n + other.n,
            self.sum + other.sum,
            self.sum_squares + other.sum_squares,
            self.pending + other.pending,
        )

    def weighted(self, weight: float) -> "ArmTotals":
        """Return the totals with each reward counted `weight` times.

        What is pending stays as it is.
        """
        checks.not_negative(weight, "weight")
        return replace(self, n=weight * self.n, sum=weight * self.sum, sum_squares=weight * self.sum_squares)

    @property
    def n_arms(self) -> int:
        """Number of arms."""
        return int(self.n.shape[-1])

    @property
    def mean(self) -> FloatArray:
        """Average reward of each arm, shape (n_arms,); 0 for an arm without rewards."""
        mean: FloatArray = self.sum / np.where(self.n > 0, self.n, 1.0)
        return mean

    @property
    def variance(self) -> FloatArray:
        """Variance of each arm's rewards, with divisor n; 0 for an arm without rewards.

        It is computed from raw sums, for rewards of order 1: it loses the digits by which the mean
        exceeds the spread.
        """
        return np.maximum(self.sum_squares / np.where(self.n > 0, self.n, 1.0) - self.mean**2, 0.0)

    def check_unit_rewards(self) -> None:
        """Raise InvalidInput if these cannot be sums of rewards in [0, 1]."""
        if not ((self.sum >= 0) & (self.sum <= self.n)).all():
            raise InvalidInput("rewards must be in [0, 1], so a sum lies between 0 and n")
