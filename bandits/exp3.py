"""EXP3-IX: exponential weights with implicit exploration, for adversarial rewards."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import special

from bandits.allocation import Allocation, with_floor
from bandits.totals import FloatArray
from stats import checks
from stats.errors import InvalidInput


@dataclass(frozen=True, slots=True, eq=False)
class LossTotals:
    """Importance-weighted losses of each arm, shape (n_arms,): all that EXP3-IX reads.

    Raises InvalidInput unless they form a vector of finite numbers that are not negative.
    """

    losses: FloatArray

    def __post_init__(self) -> None:
        if self.losses.ndim != 1 or not (np.isfinite(self.losses) & (self.losses >= 0)).all():
            raise InvalidInput("losses must be a vector of finite numbers that are not negative")

    def __add__(self, other: Self) -> "LossTotals":
        return LossTotals(self.losses + other.losses)

    @classmethod
    def observed(
        cls, n_arms: int, arm: int, reward: float, *, propensity: float, gamma: float
    ) -> "LossTotals":
        """Return the loss of one reward in [0, 1]: (1 - reward) / (propensity + gamma).

        Dividing by more than the propensity makes the estimate smaller than it should be, and its
        variance bounded: gamma is the exploration of the policy. It must stay the same in totals
        that merge.

        Worked by hand: reward 0.2, propensity 0.3, gamma 0.1: 0.8 / 0.4 = 2.

        Raises InvalidInput if reward is not in [0, 1], propensity not in (0, 1] or gamma negative.

        Source: Neu (2015), Explore no more, NeurIPS, eq. 2.
        """
        checks.closed_unit(reward, "reward")
        checks.not_negative(gamma, "gamma")
        if not 0 < propensity <= 1:
            raise InvalidInput(f"propensity must be in (0, 1], got {propensity:g}")
        losses = np.zeros(n_arms)
        losses[arm] = (1 - reward) / (propensity + gamma)
        return cls(losses)


def learning_rate(n_arms: int, horizon: int) -> float:
    """Return the rate sqrt(2 ln K / (K n)) for a horizon of n pulls; gamma is half of it.

    Worked by hand: K = 2, n = 10,000: sqrt(2 x 0.693 / 20,000) = 0.00833.

    Source: Neu (2015), theorem 1.
    """
    if n_arms < 2 or horizon < 1:
        raise InvalidInput("needs at least 2 arms and a horizon of 1")
    return float(np.sqrt(2 * np.log(n_arms) / (n_arms * horizon)))


def exp3_ix(totals: LossTotals, *, eta: float, exploration_floor: float) -> Allocation:
    """Return shares in proportion to exp(-eta losses).

    Regret against the best single arm is O(sqrt(K n log K)) with high probability, whatever the
    rewards, for eta and gamma of `learning_rate`, an update after every pull and no floor. Where
    rewards are merely random, Thompson sampling loses far less.

    Worked by hand: losses 0 and ln(3) / eta give shares 3/4 and 1/4.

    Raises InvalidInput if eta is not positive or exploration_floor not in [0, 1].

    Source: Neu (2015), algorithm 1.
    """
    checks.positive(eta, "eta")
    return with_floor(special.softmax(-eta * totals.losses), exploration_floor)
