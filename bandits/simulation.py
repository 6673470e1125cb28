"""Simulation of policies on traffic to come: many runs at once, vectorised.

Time is counted in rounds, one pull each. Allocations are made for a batch of rounds, and the
rewards of a batch become known `delay` rounds after its last round.

Simulated regret is expected regret: the gap between the best mean of the round and that of the arm
pulled.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import special

from bandits.environments import Environment
from bandits.pulls import Outcome, Policy
from bandits.totals import FloatArray
from stats.errors import InvalidInput


@dataclass(frozen=True, slots=True, eq=False)
class Regret:
    """Cumulative regret of one policy by the end of each batch.

    Most arrays have the shape (batches,).

    `lower` and `upper` hold the mean over runs with 95 % (normal approximation). `final` is the
    regret of each run, shape (runs,). `settled`, shape (runs,), is the round from which on the arm
    that is best at the end had the best average; it is `horizon + 1` if another arm has it at the
    end. `lost` is the regret as a part of what always pulling the best arm would have earned: the
    cost of exploration.
    """

    rounds: FloatArray
    mean: FloatArray
    lower: FloatArray
    upper: FloatArray
    final: FloatArray
    settled: FloatArray
    lost: float

    @property
    def standard_error(self) -> float:
        """Standard error of the mean final regret."""
        return float(self.final.std(ddof=1) / np.sqrt(len(self.final)))


def simulate(
    environment: Environment,
    policy: Policy,
    *,
    rounds: int,
    batch: int,
    runs: int,
    rng: Generator,
    delay: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Regret:
    """Run a policy `runs` times over `rounds` rounds in batches of `batch`.

    1,000 runs of 20,000 rounds of two arms in batches of 100 take a few seconds for Thompson
    sampling. `progress` is called after each batch with its number of rounds.

    Raises InvalidInput unless rounds >= 1, 1 <= batch <= rounds, delay >= 0 and runs >= 2.
    """
    if rounds < 1 or not 1 <= batch <= rounds or delay < 0 or runs < 2:
        raise InvalidInput("needs rounds >= 1, 1 <= batch <= rounds, delay >= 0 and runs >= 2")
    shape = (runs, environment.n_arms)
    known, pulled, pending = policy.start(*shape), np.zeros(shape), np.zeros(shape)
    seen, seen_sum = np.zeros(shape), np.zeros(shape)
    waiting: deque[tuple[int, Outcome]] = deque()
    regret, settled = np.zeros(runs), np.ones(runs)
    best_at_end = int(environment.mean_rewards(np.array([rounds - 1.0]))[0].argmax())
    ends, means, errors, earned = [], [], [], 0.0
    for first in range(0, rounds, batch):
        last = min(first + batch, rounds)
        while waiting and waiting[0][0] <= first:
            outcome = waiting.popleft()[1]
            known, pending = policy.learn(known, outcome), pending - outcome.pulls
            seen, seen_sum = seen + outcome.pulls, seen_sum + outcome.rewards.sum
        settled = np.where(_leads(seen, seen_sum, best_at_end), settled, last + 1.0)
        pulls, shares = policy.draw(known, pending, last - first, rng)
        expected = environment.mean_rewards(np.arange(first, last, dtype=np.float64))
        mean, best = expected.mean(axis=0), float(expected.max(axis=1).mean())
        rewards = environment.draw_rewards(rng, mean, pulls, pulled)
        waiting.append((last + delay, Outcome(pulls, shares, rewards, last - first)))
        pulled, pending = pulled + pulls, pending + pulls
        regret = regret + pulls @ (best - mean)
        earned += best * (last - first)
        ends.append(float(last))
        means.append(regret.mean())
        errors.append(regret.std(ddof=1) / np.sqrt(runs))
        progress(last - first)
    for _, outcome in waiting:
        seen, seen_sum = seen + outcome.pulls, seen_sum + outcome.rewards.sum
    settled = np.where(_leads(seen, seen_sum, best_at_end), settled, rounds + 1.0)
    mean, radius = np.array(means), -special.ndtri(0.025) * np.array(errors)
    lost = float(mean[-1] / earned) if earned else 0.0  # if no arm ever earns, nothing can be lost
    return Regret(np.array(ends), mean, mean - radius, mean + radius, regret, settled, lost)


def _leads(n: FloatArray, total: FloatArray, arm: int) -> FloatArray:
    """Return whether an arm alone has the best average, shape (runs,)."""
    average = np.where(n > 0, total / np.maximum(n, 1.0), np.inf)
    others = np.delete(average, arm, axis=1).max(axis=1)
    leads: FloatArray = average[:, arm] > others
    return leads
