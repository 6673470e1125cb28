"""Common random numbers and stopping rules for the benchmarks of policies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.allocation import Allocation
from bandits.environments import Environment, Rewards
from bandits.identification import Decision, Winner
from bandits.totals import ArmTotals, FloatArray
from stats.errors import InvalidInput


class Tables:
    """Bernoulli arms whose rewards are drawn beforehand by run, arm and number of the pull.

    Policies that get the same tables have the same luck (common random numbers). Their differences
    are then known more exactly than their regrets.
    """

    def __init__(self, arm_means: Sequence[float], *, rounds: int, runs: int, rng: Generator) -> None:
        self._means = np.array(arm_means)
        small = rounds <= np.iinfo(np.int16).max
        self._sums = np.zeros((runs, len(arm_means), rounds + 1), dtype=np.int16 if small else np.int32)
        for run in self._sums:
            np.cumsum(rng.random(run[:, 1:].shape) < self._means[:, None], axis=1, out=run[:, 1:])

    @property
    def n_arms(self) -> int:
        """Number of arms."""
        return len(self._means)

    def of_run(self, run: int) -> FloatArray:
        """Return the rewards of one run by arm and number of the pull, shape (n_arms, rounds)."""
        return np.diff(self._sums[run].astype(np.float64), axis=1)

    def mean_rewards(self, rounds: FloatArray) -> FloatArray:
        """Return the same means for every round."""
        return np.broadcast_to(self._means, (len(rounds), self.n_arms))

    def draw_rewards(
        self, rng: Generator, mean: FloatArray, pulls: FloatArray, before: FloatArray
    ) -> Rewards:
        """Return the sums of the next `pulls` rewards of each arm's table."""
        del rng, mean
        start, end = (
            np.take_along_axis(self._sums, index.astype(np.int64)[:, :, None], axis=2)[:, :, 0]
            for index in (before, before + pulls)
        )
        wins = end.astype(np.float64) - start
        return Rewards(wins, wins)


@dataclass(frozen=True, slots=True, eq=False)
class Identification:
    """Round at which an arm was declared best in each run, and which arm; both of shape (runs,).

    A run that was undecided at the end has infinity and -1.
    """

    rounds: FloatArray
    arm: NDArray[np.int_]


def identify(
    environment: Environment,
    allocate: Callable[[ArmTotals], Allocation],
    stop: Callable[[ArmTotals, Decision | None], Decision],
    *,
    rounds_max: int,
    batch: int,
    runs: int,
    rng: Generator,
) -> Identification:
    """Run a policy and a stopping rule, with a look every `batch` rounds, until an arm is best.

    Raises InvalidInput if batch or runs < 1 or rounds_max < batch.
    """
    if batch < 1 or runs < 1 or rounds_max < batch:
        raise InvalidInput("needs batch >= 1, runs >= 1 and rounds_max >= batch")
    rounds, arm = np.full(runs, np.inf), np.full(runs, -1)
    zero = np.zeros(environment.n_arms)
    for run in range(runs):
        totals, decision = ArmTotals(zero, zero, zero, zero), None
        for first in range(0, rounds_max, batch):
            pulls = rng.multinomial(batch, allocate(totals).shares).astype(np.float64)[None]
            mean = environment.mean_rewards(np.arange(first, first + batch, dtype=np.float64)).mean(axis=0)
            rewards = environment.draw_rewards(rng, mean, pulls, totals.n[None])
            totals = totals + ArmTotals(pulls[0], rewards.sum[0], rewards.sum_squares[0], zero)
            decision = stop(totals, decision)
            if isinstance(decision, Winner):
                rounds[run], arm[run] = first + batch, decision.arm
                break
    return Identification(rounds, arm)
