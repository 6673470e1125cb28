"""Mergeable totals: all that a statistic may read. `a + b` are the totals of both samples together."""

from fractions import Fraction
from typing import Self

import msgspec

from stats import checks
from stats.errors import InvalidInput


class RewardTotals(msgspec.Struct, frozen=True):
    """Sums over the rewards in [0, 1] of one arm: what a bandit policy reads."""

    n: int = 0
    sum: float = 0.0
    sum_squares: float = 0.0

    def __add__(self, other: Self) -> "RewardTotals":
        return RewardTotals(self.n + other.n, self.sum + other.sum, self.sum_squares + other.sum_squares)

    @property
    def mean(self) -> float | None:
        """The average reward; None while there is no reward."""
        return self.sum / self.n if self.n else None


class ProportionTotals(msgspec.Struct, frozen=True):
    """`successes` among `n` units that each succeed once or not at all.

    Raises InvalidInput unless 0 <= successes <= n.
    """

    n: int = 0
    successes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.n:
            raise InvalidInput(f"successes must be within [0, n], got {self.successes} of {self.n}")

    def __add__(self, other: Self) -> "ProportionTotals":
        return ProportionTotals(self.n + other.n, self.successes + other.successes)

    @property
    def mean(self) -> float:
        """The proportion. Raises InsufficientData if n is 0."""
        checks.n_at_least(self.n, 1, "units")
        return self.successes / self.n

    @property
    def moments(self) -> "MeanTotals":
        """The same observations as numbers 0 and 1."""
        return MeanTotals.from_sums(self.n, self.successes, self.successes)


class MeanTotals(msgspec.Struct, frozen=True):
    """Number, mean and sum of squared deviations `m2` of one observation per unit.

    Centred, so that a large mean costs no digits. Merging follows Chan, Golub & LeVeque (1983), The American
    Statistician 37(3), eq. 2.1.
    Raises InvalidInput unless n >= 0 and m2 >= 0, both 0 if n is 0.
    """

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0

    def __post_init__(self) -> None:
        checks.not_negative(self.n, "n")
        checks.finite(self.mean, "mean")
        checks.not_negative(self.m2, "m2")
        if self.n == 0 and (self.mean or self.m2):
            raise InvalidInput("totals of no observations must be zero")

    @classmethod
    def from_sums(cls, n: int, total: float | Fraction, total_squares: float | Fraction) -> "MeanTotals":
        """From sum and sum of squares, which may be exact integers or fractions: then nothing is lost.

        Raises InvalidInput if no sample can have these sums.
        """
        if not n:
            return cls() if not (total or total_squares) else cls(0, float(total), float(total_squares))
        exact_total, exact_squares = Fraction(total), Fraction(total_squares)
        m2 = exact_squares - exact_total**2 / n
        if m2 < 0 and -m2 > Fraction(1, 10**9) * exact_squares:
            raise InvalidInput(
                f"no {n} observations have sum {float(total):g}, squares {float(total_squares):g}"
            )
        return cls(n, float(exact_total / n), max(float(m2), 0.0))

    def __add__(self, other: Self) -> "MeanTotals":
        n = self.n + other.n
        if not n:
            return MeanTotals()
        step = other.mean - self.mean
        mean = (self.n * self.mean + other.n * other.mean) / n
        return MeanTotals(n, mean, self.m2 + other.m2 + step**2 * self.n * (other.n / n))

    @property
    def variance(self) -> float:
        """The unbiased sample variance. Raises InsufficientData if n < 2."""
        checks.n_at_least(self.n, 2, "units")
        return self.m2 / (self.n - 1)
