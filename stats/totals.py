"""Mergeable totals: all that a statistic may read."""

from typing import Self

import msgspec


class RewardTotals(msgspec.Struct, frozen=True):
    """Sufficient statistics of the rewards of one arm; `a + b` are the totals of both together."""

    n: int = 0
    sum: float = 0.0
    sum_squares: float = 0.0

    def __add__(self, other: Self) -> "RewardTotals":
        return RewardTotals(self.n + other.n, self.sum + other.sum, self.sum_squares + other.sum_squares)

    @property
    def mean(self) -> float | None:
        """The average reward; None while there is no reward."""
        return self.sum / self.n if self.n else None
