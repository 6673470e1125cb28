"""Pulls of policies in many simulated runs at once.

Thompson sampling draws from the posteriors here, where a server draws from P(best): pulls of one
batch are then independent draws of the arm with exactly that distribution. So runs are equal in
distribution, and no run needs a quadrature.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import special

from bandits import ucb
from bandits.allocation import Allocation, greatest
from bandits.arms import answers_per_reward
from bandits.environments import Rewards
from bandits.thompson import DEFAULT_SAMPLING
from bandits.totals import ArmTotals, FloatArray
from stats.errors import InvalidInput

_DRAWS_MAX: Final = 2_000_000
"""Number of posterior draws held in memory at a time."""
_TIE_BREAK: Final = 1e-13


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Result of a batch: pulls and the shares they were drawn with, (runs, n_arms), and rewards."""

    pulls: FloatArray
    shares: FloatArray | None
    rewards: Rewards
    rounds: int


class Policy(Protocol):
    """A policy over many runs."""

    def start(self, runs: int, n_arms: int) -> FloatArray:
        """Return what the policy knows before the first reward, shape (facts, runs, n_arms)."""

    def draw(
        self, known: FloatArray, pending: FloatArray, size: int, rng: Generator
    ) -> tuple[FloatArray, FloatArray | None]:
        """Return `size` pulls for each run, shape (runs, n_arms).

        The shares come with them if the policy learns from shares.
        """

    def learn(self, known: FloatArray, outcome: Outcome) -> FloatArray:
        """Return what the policy knows after a batch."""


Draw = Callable[[ArmTotals, int, Generator], FloatArray]
"""Draw a number of pulls for each run from its totals, shape (runs, n_arms)."""


@dataclass(frozen=True, slots=True)
class FromTotals:
    """A policy that reads totals.

    Each round leaves `memory` of what was known before (1: everything).
    """

    pulls: Draw
    memory: float = 1.0

    def start(self, runs: int, n_arms: int) -> FloatArray:
        """Return number, sum and sum of squares: zero."""
        return np.zeros((3, runs, n_arms))

    def draw(
        self, known: FloatArray, pending: FloatArray, size: int, rng: Generator
    ) -> tuple[FloatArray, None]:
        """Return pulls by the totals."""
        return self.pulls(ArmTotals(known[0], known[1], known[2], pending), size, rng), None

    def learn(self, known: FloatArray, outcome: Outcome) -> FloatArray:
        """Add the batch to what is left of the past."""
        batch = np.stack((outcome.pulls, outcome.rewards.sum, outcome.rewards.sum_squares))
        return known * self.memory**outcome.rounds + batch


@dataclass(frozen=True, slots=True)
class Exp3Ix:
    """EXP3-IX with the learning rate `eta` (`bandits.exp3`), its shares mixed with a floor."""

    eta: float
    exploration_floor: float = 0.0

    def start(self, runs: int, n_arms: int) -> FloatArray:
        """Return no losses."""
        return np.zeros((1, runs, n_arms))

    def draw(
        self, known: FloatArray, pending: FloatArray, size: int, rng: Generator
    ) -> tuple[FloatArray, FloatArray]:
        """Return pulls in proportion to the exponential of the losses."""
        del pending
        shares: FloatArray = special.softmax(-self.eta * known[0], axis=1)
        shares = (1 - self.exploration_floor) * shares + self.exploration_floor / known.shape[2]
        return rng.multinomial(size, shares).astype(np.float64), shares

    def learn(self, known: FloatArray, outcome: Outcome) -> FloatArray:
        """Add importance-weighted losses."""
        if outcome.shares is None:
            raise InvalidInput("EXP3-IX learns from the shares with which arms were drawn")
        losses: FloatArray = known + (outcome.pulls - outcome.rewards.sum) / (outcome.shares + self.eta / 2)
        return losses


def thompson_pulls(
    totals: ArmTotals, size: int, rng: Generator, *, prior_alpha: float = 1.0, prior_beta: float = 1.0
) -> FloatArray:
    """Draw from the posteriors of `BetaArms`, and pull the arm with the greatest draw."""
    alpha, beta = _beta(totals, prior_alpha, prior_beta)
    return _times_greatest(lambda shape: rng.beta(alpha, beta, size=shape), totals, size)


def optimistic_pulls(
    totals: ArmTotals,
    size: int,
    rng: Generator,
    *,
    sampling: float = DEFAULT_SAMPLING,
    prior_alpha: float = 1.0,
    prior_beta: float = 1.0,
) -> FloatArray:
    """Draw as `bandits.thompson.optimistic_thompson`.

    An arm counts as its mean, or as a draw that is greater.
    """
    alpha, beta = _beta(totals, prior_alpha, prior_beta)
    mean = alpha / (alpha + beta)

    def draw(shape: tuple[int, int, int]) -> FloatArray:
        drawn = np.where(rng.random(shape) < sampling, rng.beta(alpha, beta, size=shape), 0.0)
        # Noise below the resolution of any posterior breaks ties of means at random.
        return np.maximum(drawn, mean) + _TIE_BREAK * rng.random(shape)

    return _times_greatest(draw, totals, size)


def _beta(totals: ArmTotals, prior_alpha: float, prior_beta: float) -> tuple[FloatArray, FloatArray]:
    """Return the parameters of the posteriors, shape (runs, 1, n_arms)."""
    worth = answers_per_reward(totals)
    alpha, beta = prior_alpha + worth * totals.sum, prior_beta + worth * (totals.n - totals.sum)
    return alpha[:, None], beta[:, None]


def constant_pulls(weights: FloatArray) -> Draw:
    """Draw arms in proportion to `weights`, whatever was observed."""
    shares = weights / weights.sum()

    def pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
        return rng.multinomial(size, np.broadcast_to(shares, totals.n.shape)).astype(np.float64)

    return pulls


def index_pulls(name: ucb.IndexName, rounds_ahead: int | None = None) -> Draw:
    """Draw as an upper confidence bound would spread `rounds_ahead` pulls.

    None: the pulls of the batch.
    """

    def pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
        shares = ucb.shares_ahead(name, totals, rounds_ahead or size)
        return rng.multinomial(size, shares).astype(np.float64)

    return pulls


def epsilon_greedy_pulls(epsilon: float) -> Draw:
    """Pull the arm with the best average, and spread a part of the pulls evenly."""

    def pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
        shares = greatest(np.where(totals.n > 0, totals.mean, np.inf))
        return rng.multinomial(size, (1 - epsilon) * shares + epsilon / totals.n_arms).astype(np.float64)

    return pulls


def exact_pulls(policy: Callable[[ArmTotals], Allocation]) -> Draw:
    """Draw from a policy's exact shares, one run after the other: as a server draws, and slow."""

    def pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
        fields = (totals.n, totals.sum, totals.sum_squares, totals.pending)
        shares = [policy(ArmTotals(*run)).shares for run in zip(*fields, strict=True)]
        return rng.multinomial(size, shares).astype(np.float64)

    return pulls


def with_floor_pulls(draw: Draw, exploration_floor: float) -> Draw:
    """Spread a part of the pulls evenly, and leave the rest to `draw`."""

    def pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
        explored = rng.binomial(size, exploration_floor, size=len(totals.n))
        even = rng.multinomial(explored, np.full(totals.n_arms, 1 / totals.n_arms))
        # The pulls of one batch are exchangeable, so any of them may be those that the floor
        # replaces.
        chosen = draw(totals, size, rng).astype(np.int64)
        return (even + _without_replacement(chosen, size - explored, rng)).astype(np.float64)

    return pulls


def _without_replacement(counts: NDArray[np.int64], kept: NDArray[np.int64], rng: Generator) -> FloatArray:
    """Keep `kept` random pulls of each row of `counts`: arm after arm is hypergeometric."""
    missing, others = kept.copy(), counts.sum(axis=1)
    taken = np.zeros_like(counts)
    for arm in range(counts.shape[1]):
        others = others - counts[:, arm]
        taken[:, arm] = rng.hypergeometric(counts[:, arm], others, missing)
        missing = missing - taken[:, arm]
    return taken.astype(np.float64)


def capped_pulls(draw: Draw, draws_max: int) -> Draw:
    """Draw as `draw`, but spread a batch above `draws_max` in the proportions of that many draws.

    Expected pulls stay the same. Those of one batch are then no longer independent: their
    proportions carry a standard error of at most 0.5 / sqrt(draws_max) from batch to batch.
    """

    def pulls(totals: ArmTotals, size: int, rng: Generator) -> FloatArray:
        if size <= draws_max:
            return draw(totals, size, rng)
        shares = draw(totals, draws_max, rng) / draws_max
        return rng.multinomial(size, shares).astype(np.float64)

    return pulls


def _times_greatest(
    draw: Callable[[tuple[int, int, int]], FloatArray], totals: ArmTotals, size: int
) -> FloatArray:
    """Count how often each arm is the greatest of `size` draws, shape (runs, n_arms)."""
    runs, n_arms = totals.n.shape
    counts = np.zeros((runs, n_arms))
    step = max(1, _DRAWS_MAX // counts.size)
    offset = np.arange(runs)[:, None] * n_arms
    for done in range(0, size, step):
        winner = draw((runs, min(step, size - done), n_arms)).argmax(axis=2) + offset
        counts += np.bincount(winner.ravel(), minlength=counts.size).reshape(counts.shape)
    return counts
