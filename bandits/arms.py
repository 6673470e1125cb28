"""What a policy believes about the mean reward of each arm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stats.totals import RewardTotals

FloatArray = NDArray[np.float64]

PARAMETER_MIN: Final = 1e-3
PARAMETER_MAX: Final = 1e12
"""Between them all that is computed from a posterior keeps its stated accuracy."""


@dataclass(frozen=True, slots=True, eq=False)
class BetaArms:
    """Independent Beta(alpha, beta) posteriors of the arms' mean rewards; arrays of shape (n_arms,).

    Raises ValueError unless the shapes agree, there is an arm, and every parameter is within
    [`PARAMETER_MIN`, `PARAMETER_MAX`].
    """

    alpha: FloatArray
    beta: FloatArray

    def __post_init__(self) -> None:
        if self.alpha.ndim != 1 or self.alpha.shape != self.beta.shape or not self.alpha.size:
            shapes = f"{self.alpha.shape} and {self.beta.shape}"
            raise ValueError(f"alpha and beta must both have the shape (n_arms,), got {shapes}")
        parameters = np.concatenate((self.alpha, self.beta))
        if not ((parameters >= PARAMETER_MIN) & (parameters <= PARAMETER_MAX)).all():
            raise ValueError(f"alpha and beta must be within [{PARAMETER_MIN:g}, {PARAMETER_MAX:g}]")

    @classmethod
    def from_totals(
        cls, totals: Sequence[RewardTotals], *, prior_alpha: float = 1.0, prior_beta: float = 1.0
    ) -> "BetaArms":
        """The posteriors after rewards in [0, 1]: alpha = prior + sum, beta = prior + n - sum.

        Exact for rewards of 0 and 1. A fractional reward r counts as r successes and 1 - r failures: what
        a Bernoulli(r) coin tossed for it would add in expectation. Since no reward in [0, 1] has a larger
        variance than the coin with its mean, the posterior is then never too narrow, but explores more
        than it would have to. Guarantees proved for Bernoulli rewards are not inherited word for word.

        Worked by hand: three rewards 1, 0 and 0.5 under Beta(1, 1) give Beta(2.5, 2.5).
        """
        n = np.array([total.n for total in totals], dtype=np.float64)
        rewards = np.array([total.sum for total in totals], dtype=np.float64)
        if not ((rewards >= 0) & (rewards <= n)).all():
            raise ValueError("rewards must be in [0, 1], so a sum lies between 0 and n")
        return cls(prior_alpha + rewards, prior_beta + (n - rewards))

    @property
    def mean(self) -> FloatArray:
        """The posterior means, shape (n_arms,)."""
        mean: FloatArray = self.alpha / (self.alpha + self.beta)
        return mean
