"""Regret of Thompson sampling on rewards between 0 and 1, by the weight of a reward.

    python -m benchmarks.fractional [RUNS]

Each reward counts as one answer, or as the number of answers that it is worth. Both play the same
runs: the n-th pull of an arm earns the same.
"""

import sys
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.random import Generator, default_rng

from bandits.arms import answers_per_reward
from bandits.totals import ArmTotals, FloatArray
from benchmarks.harness import show

ROUNDS: Final = 2_000
BATCH: Final = 10
SEED: Final = 1

Rewards = Callable[[Generator, FloatArray], FloatArray]
"""Draws rewards from expected rewards, in the same shape."""


class Arm(NamedTuple):
    """The distribution of the rewards of an arm, and its mean."""

    rewards: Rewards
    mean: float


def scores(concentration: float) -> Rewards:
    """Return a sampler of Beta(c m, c (1 - m)) for the concentration c and the mean m."""
    return lambda rng, mean: rng.beta(concentration * mean, concentration * (1 - mean))


def answers(rng: Generator, mean: FloatArray) -> FloatArray:
    """Draw rewards that are 0 or 1."""
    return (rng.random(mean.shape) < mean).astype(np.float64)


def half_answers(rng: Generator, mean: FloatArray) -> FloatArray:
    """Draw half of the rewards as 0 or 1, and the other half close to the mean."""
    close = scores(20)(rng, mean)
    return np.where(rng.random(mean.shape) < 0.5, (rng.random(mean.shape) < mean) * 1.0, close)


def rare(probability: float, value: float) -> Rewards:
    """Return a sampler of `value` with a small probability, and otherwise of a constant."""
    return lambda rng, mean: np.where(
        rng.random(mean.shape) < probability, value, (mean - probability * value) / (1 - probability)
    )


def alike(rewards: Rewards, *means: float) -> list[Arm]:
    """Return arms with the same distribution around different means."""
    return [Arm(rewards, mean) for mean in means]


ENVIRONMENTS: Final = {
    "concentration 0.5": alike(scores(0.5), 0.6, 0.55, 0.5),
    "concentration 2": alike(scores(2), 0.6, 0.55, 0.5),
    "concentration 10": alike(scores(10), 0.6, 0.55, 0.5),
    "concentration 50": alike(scores(50), 0.6, 0.55, 0.5),
    "concentration 10, low": alike(scores(10), 0.12, 0.1, 0.08),
    "concentration 10, 8 arms": alike(scores(10), 0.55, *[0.5] * 7),
    "half 0 or 1": alike(half_answers, 0.6, 0.55, 0.5),
    "concentrations 1, 10, 100": [Arm(scores(1), 0.55), Arm(scores(10), 0.53), Arm(scores(100), 0.5)],
    "concentrations 100, 10, 1": [Arm(scores(100), 0.55), Arm(scores(10), 0.53), Arm(scores(1), 0.5)],
    "0 or 1 at 0.55, scores at 0.50": [Arm(answers, 0.55), Arm(scores(30), 0.5)],
    "0 or 1 at 0.50, scores at 0.55": [Arm(scores(30), 0.55), Arm(answers, 0.5)],
    "0 or 1 at 0.15, scores at 0.10": [Arm(answers, 0.15), Arm(scores(30), 0.1)],
    "0 or 1 at 0.90, scores at 0.85": [Arm(answers, 0.9), Arm(scores(30), 0.85)],
    "rare 1, the better": [Arm(rare(0.02, 1.0), 0.12), Arm(scores(50), 0.11)],
    "rare 1, the worse": [Arm(rare(0.02, 1.0), 0.11), Arm(scores(50), 0.12)],
    "rare 0, the better": [Arm(rare(0.05, 0.0), 0.8), Arm(scores(50), 0.77)],
    "rare 0, the worse": [Arm(rare(0.05, 0.0), 0.77), Arm(scores(50), 0.8)],
}


def regret(arms: list[Arm], worth: Callable[[ArmTotals], FloatArray], *, runs: int) -> FloatArray:
    """Return the regret of each run against the best mean reward over all runs."""
    rng = default_rng(SEED)
    table = np.stack(
        [
            arm.rewards(default_rng((SEED, number)), np.full((runs, ROUNDS), arm.mean))
            for number, arm in enumerate(arms)
        ],
        axis=1,
    )
    means, every_run = table.mean(axis=(0, 2)), np.arange(runs)
    n, total, squares = (np.zeros((runs, len(arms))) for _ in range(3))
    lost = np.zeros(runs)
    for _ in range(ROUNDS // BATCH):
        each = worth(ArmTotals(n, total, squares, np.zeros_like(n)))
        alpha, beta = 1 + each * total, 1 + each * (n - total)
        for _ in range(BATCH):
            pulled = rng.beta(alpha, beta).argmax(axis=1)
            reward = table[every_run, pulled, n[every_run, pulled].astype(int)]
            n[every_run, pulled] += 1
            total[every_run, pulled] += reward
            squares[every_run, pulled] += reward**2
            lost += means.max() - means[pulled]
    return lost


def measure(*, runs: int) -> None:
    """Play all environments and print the table."""
    rows = []
    for name, arms in ENVIRONMENTS.items():
        both = [
            regret(arms, worth, runs=runs)
            for worth in (lambda totals: np.ones_like(totals.n), answers_per_reward)
        ]
        rows.append([name])
        for lost in both:
            error = lost.std(ddof=1) / runs**0.5
            tail = ", ".join(f"{np.quantile(lost, part):.1f}" for part in (0.95, 0.99))
            rows[-1] += [f"{lost.mean():.2f} +- {error:.2f}", tail]
    show(
        f"Regret after {ROUNDS} rounds, {runs} runs",
        ["rewards", "each an answer", "95 %, 99 %", "as it is worth", "95 %, 99 %"],
        rows,
    )


if __name__ == "__main__":
    measure(runs=int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
