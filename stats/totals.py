"""Mergeable totals, the only input of a statistic.

`a + b` are the totals of both samples together.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache, cached_property
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from stats import checks
from stats.errors import InvalidInput

FloatArray = NDArray[np.float64]


class RewardTotals(msgspec.Struct, frozen=True):
    """Sums over the rewards in [0, 1] of one arm: what a bandit policy reads."""

    n: int = 0
    sum: float = 0.0
    sum_squares: float = 0.0

    def __add__(self, other: Self) -> "RewardTotals":
        return RewardTotals(self.n + other.n, self.sum + other.sum, self.sum_squares + other.sum_squares)

    @property
    def mean(self) -> float | None:
        """Mean reward; None while there is no reward."""
        return self.sum / self.n if self.n else None


class ProportionTotals(msgspec.Struct, frozen=True, tag_field="kind", tag="proportion"):
    """Number of `successes` among `n` units that each succeed once or not at all.

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
        """Proportion of successes. Raises InsufficientData if n is 0."""
        checks.n_at_least(self.n, 1, "units")
        return self.successes / self.n

    @property
    def moments(self) -> "MeanTotals":
        """Totals of the same observations as numbers 0 and 1."""
        return MeanTotals.from_sums(self.n, self.successes, self.successes)


class MeanTotals(msgspec.Struct, frozen=True, tag_field="kind", tag="mean"):
    """Number, mean and sum of squared deviations `m2` of one observation per unit.

    Centred, so that a large mean costs no digits. Merging follows Chan, Golub & LeVeque (1983), The
    American Statistician 37(3), eq. 2.1.
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
        """Compute totals from sum and sum of squares.

        If these are integers or fractions, there is no loss.

        Raises InvalidInput if a sum is not finite, or no sample can have these sums.
        """
        checks.finite(total, "total")
        checks.finite(total_squares, "total_squares")
        if not n:
            return cls() if not (total or total_squares) else cls(0, float(total), float(total_squares))
        exact_total, exact_squares = Fraction(total), Fraction(total_squares)
        m2 = exact_squares - exact_total**2 / n
        if m2 < 0 and -m2 > Fraction(1, 10**9) * exact_squares:
            raise InvalidInput(
                f"no {n} observations have sum {float(total):g}, squares {float(total_squares):g}"
            )
        return cls(n, float(exact_total / n), max(float(m2), 0.0))

    @classmethod
    def from_observations(cls, observations: FloatArray) -> "MeanTotals":
        """Compute totals from observations, shape (n,), in two passes.

        Raises InvalidInput if one is not finite.
        """
        _check_finite(observations)
        if not len(observations):
            return cls()
        mean = float(np.mean(observations))
        return cls(len(observations), mean, float(np.sum((observations - mean) ** 2)))

    def __add__(self, other: Self) -> "MeanTotals":
        n = self.n + other.n
        if not n:
            return MeanTotals()
        step = other.mean - self.mean
        mean = (self.n * self.mean + other.n * other.mean) / n
        return MeanTotals(n, mean, self.m2 + other.m2 + step**2 * self.n * (other.n / n))

    @property
    def variance(self) -> float:
        """Unbiased sample variance. Raises InsufficientData if n < 2."""
        checks.n_at_least(self.n, 2, "units")
        return self.m2 / (self.n - 1)


class JointTotals(msgspec.Struct, frozen=True, dict=True, tag_field="kind", tag="joint"):
    """Number, means and co-moments of several values per unit: the vector form of `MeanTotals`.

    `mean` has d entries. `comoments` is the lower triangle, row by row, of the matrix of sums of
    products of deviations: d (d + 1) / 2 entries (0,0), (1,0), (1,1), (2,0), ... Tuples, so that
    totals are equal when their numbers are, hash, cannot be changed and travel as they are.

    Worked by hand: the units (0, 0) and (2, 4) have means (1, 2) and co-moments 2; 4, 8.

    Raises InvalidInput unless the lengths agree, all is finite, the diagonal is not negative, and
    all is 0 if n is 0; or, when merging, unless both have the same d.
    """

    n: int
    mean: tuple[float, ...]
    comoments: tuple[float, ...]

    def __post_init__(self) -> None:
        checks.not_negative(self.n, "n")
        if not self.mean or len(self.comoments) != _triangle(self.dimension):
            raise InvalidInput(f"{len(self.mean)} means do not go with {len(self.comoments)} co-moments")
        if not all(map(math.isfinite, self.mean + self.comoments)):
            raise InvalidInput(f"moments must be finite, got {self.mean} and {self.comoments}")
        for row in range(self.dimension):
            if self.comoments[_triangle(row + 1) - 1] < 0:
                raise InvalidInput(f"sums of squared deviations must not be negative, got {self.comoments}")
        if self.n == 0 and any(self.mean + self.comoments):
            raise InvalidInput("totals of no observations must be zero")

    @classmethod
    def none(cls, dimension: int) -> "JointTotals":
        """Return the totals of no units."""
        return cls(0, (0.0,) * dimension, (0.0,) * _triangle(dimension))

    @classmethod
    def from_sums(
        cls, n: int, sums: Sequence[float | Fraction], products: Sequence[float | Fraction]
    ) -> "JointTotals":
        """Compute totals from the d sums and the d (d + 1) / 2 sums of products.

        The products are the lower triangle by rows.

        Integers and fractions are exact until the last rounding. Raises InvalidInput if a sum is
        not finite, or no sample can have these sums.
        """
        if len(products) != _triangle(len(sums)):
            raise InvalidInput(f"{len(sums)} sums do not go with {len(products)} sums of products")
        for total in (*sums, *products):
            checks.finite(total, "a sum")
        if not n:
            return cls(0, tuple(map(float, sums)), tuple(map(float, products)))
        exact = [Fraction(total) for total in sums]
        comoments: list[float] = []
        for row in range(len(exact)):
            start = _triangle(row)
            comoments.extend(
                float(Fraction(products[start + column]) - exact[row] * exact[column] / n)
                for column in range(row)
            )
            # MeanTotals rejects sums of squares that no sample has, and corrects rounding.
            comoments.append(MeanTotals.from_sums(n, sums[row], products[start + row]).m2)
        return cls(n, tuple(float(total / n) for total in exact), tuple(comoments))

    @classmethod
    def from_observations(cls, observations: FloatArray) -> "JointTotals":
        """Compute totals from observations, shape (n, d), in two passes.

        Raises InvalidInput if one is not finite, or the shape is another.
        """
        if observations.ndim != 2:
            raise InvalidInput(f"observations must have the shape (n, d), got {observations.shape}")
        _check_finite(observations)
        n, dimension = observations.shape
        if not n:
            return cls.none(dimension)
        mean = observations.mean(axis=0)
        deviations = observations - mean
        return cls._of_matrix(n, mean, deviations.T @ deviations)

    @classmethod
    def _of_matrix(cls, n: int, mean: FloatArray, comoments: FloatArray) -> "JointTotals":
        lower = comoments[_lower(len(mean))]
        return cls(n, tuple(mean.tolist()), tuple(lower.tolist()))

    @classmethod
    def merged(cls, parts: Sequence["JointTotals"]) -> "JointTotals":
        """Return the totals of all parts together, as their sum is, in one pass.

        Worked by hand: one unit (0, 0) and one (2, 4) are the units of the example above.

        Raises InvalidInput without parts, or if their dimensions differ.
        """
        if len({part.dimension for part in parts}) != 1:
            raise InvalidInput("needs totals of one dimension")
        counts = np.array([part.n for part in parts], dtype=np.float64)
        n = sum(part.n for part in parts)
        if not n:
            return cls.none(parts[0].dimension)
        means = np.array([part.mean for part in parts])
        mean = counts @ means / n
        steps = means - mean
        within = np.array([part.comoments for part in parts]).sum(axis=0)
        between = (steps * counts[:, None]).T @ steps
        return cls(n, tuple(mean.tolist()), tuple((within + between[_lower(len(mean))]).tolist()))

    @property
    def dimension(self) -> int:
        """Number d of values per unit."""
        return len(self.mean)

    def __add__(self, other: Self) -> "JointTotals":
        if self.dimension != other.dimension:
            raise InvalidInput(f"totals of {self.dimension} and {other.dimension} values do not merge")
        n = self.n + other.n
        if not n:
            return JointTotals.none(self.dimension)
        step = np.subtract(other.mean, self.mean)
        mean = (self.n * np.array(self.mean) + other.n * np.array(other.mean)) / n
        between = np.outer(step, step) * (self.n * (other.n / n))
        return self._of_matrix(n, mean, self.matrix + other.matrix + between)

    @cached_property
    def matrix(self) -> FloatArray:
        """Symmetric matrix of the co-moments, shape (d, d)."""
        matrix = np.zeros((self.dimension, self.dimension))
        matrix[_lower(self.dimension)] = self.comoments
        symmetric: FloatArray = matrix + matrix.T
        np.fill_diagonal(symmetric, matrix.diagonal())
        symmetric.flags.writeable = False
        return symmetric

    @property
    def covariance(self) -> FloatArray:
        """Unbiased sample covariance, shape (d, d). Raises InsufficientData if n < 2."""
        checks.n_at_least(self.n, 2, "units")
        covariance: FloatArray = self.matrix / (self.n - 1)
        return covariance

    def select(self, *positions: int) -> "JointTotals":
        """Return the totals of only the values at these positions, in this order."""
        chosen = list(positions)
        return self._of_matrix(self.n, np.array(self.mean)[chosen], self.matrix[np.ix_(chosen, chosen)])

    def value(self, position: int) -> MeanTotals:
        """Return the totals of only the value at one position."""
        return MeanTotals(self.n, self.mean[position], self.comoments[_triangle(position + 1) - 1])

    def combine(self, weights: Sequence[float]) -> MeanTotals:
        """Return the totals of each unit's weighted sum of values.

        They equal those of the observations.

        Worked by hand: in the example above the differences second - first are 0 and 2, so weights
        (-1, 1) give mean 1 and m2 = 2 - 2 * 4 + 8 = 2.
        """
        if len(weights) != self.dimension:
            raise InvalidInput(f"{len(weights)} weights for {self.dimension} values")
        vector = np.array(weights, dtype=np.float64)
        return MeanTotals(
            self.n, float(vector @ np.array(self.mean)), max(float(vector @ self.matrix @ vector), 0.0)
        )


def _check_finite(observations: FloatArray) -> None:
    if not np.isfinite(observations).all():
        raise InvalidInput("observations must be finite")


@cache
def _lower(rows: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of a lower triangle; cached, because numpy is slow to make them."""
    return np.tril_indices(rows)


def _triangle(rows: int) -> int:
    """Return the number of entries in the first `rows` rows of a lower triangle."""
    return rows * (rows + 1) // 2
