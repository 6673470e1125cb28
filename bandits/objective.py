"""Objectives beyond one number: constraints on other metrics, weighted sums, and the frontier."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.allocation import Allocation, with_floor
from bandits.arms import Arms, NormalArms
from bandits.best import probability_best_feasible
from bandits.totals import FloatArray
from stats.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Constraint:
    """Bounds on the mean of a metric, in its own unit: `at_least` <= mean <= `at_most`.

    Raises InvalidInput if the bounds leave no room.
    """

    metric: Arms
    at_least: float = -np.inf
    at_most: float = np.inf

    def __post_init__(self) -> None:
        if not self.at_least < self.at_most:
            raise InvalidInput(f"at_least must be below at_most, got {self.at_least:g} and {self.at_most:g}")

    def probability_met(self) -> FloatArray:
        """Return P(the arm's mean is within the bounds), shape (n_arms,)."""
        n_arms = len(self.metric.mean)
        above = (
            self.metric.probability_below(self.at_least) if np.isfinite(self.at_least) else np.zeros(n_arms)
        )
        below = self.metric.probability_below(self.at_most) if np.isfinite(self.at_most) else np.ones(n_arms)
        return np.clip(below - above, 0.0, 1.0)


def constrained_thompson(
    reward: Arms,
    constraints: Sequence[Constraint],
    *,
    when_none: Allocation,
    exploration_floor: float,
) -> Allocation:
    """Serve by Thompson sampling among feasible arms.

    Shares are P(best and feasible) + P(none feasible) x `when_none`, mixed with the floor.
    Posteriors of reward and metrics are taken as independent. For one arm they usually are not (a
    slow answer is liked less); then P(best and feasible) is off, although each factor is right.

    Draw rewards and metrics from the posteriors, serve the best arm that meets the constraints, and
    serve `when_none` (say, all to the control) if none does: these are the exact probabilities of
    that. An arm found infeasible keeps the floor only.

    Worked by hand: two equal arms, the second feasible with 1/2, the first for sure: shares 3/4 and
    1/4.

    Raises InvalidInput if the numbers of arms differ or exploration_floor is not in [0, 1].
    """
    feasible = np.ones(len(reward.mean))
    for constraint in constraints:
        met = constraint.probability_met()
        if met.shape != feasible.shape:
            raise InvalidInput("reward and metrics must have the same number of arms")
        feasible = feasible * met
    best, none = probability_best_feasible(reward, feasible)
    if when_none.shares.shape != best.shape:
        raise InvalidInput("when_none must have a share for each arm")
    return with_floor(best + none * when_none.shares, exploration_floor)


def scalarised(metrics: Sequence[Arms], weights: Sequence[float]) -> NormalArms:
    """Return the posterior of a weighted sum of metrics; weights are in reward per unit.

    Normal with the sum's mean and variance: metrics are taken as independent, and few observations
    of a skewed one make it inexact. Where the sum can be computed for each unit, do so and use
    `NormalArms.from_totals`, which assumes neither.

    Worked by hand: means 0.5 and 2.0 s with standard deviations 0.03 and 0.4 s, weights 1 and -0.1
    per s: mean 0.5 - 0.2 = 0.3, standard deviation sqrt(0.03^2 + 0.04^2) = 0.05.

    Raises InvalidInput if there is not one finite weight a metric, or a variance is infinite.
    """
    if not metrics or len(metrics) != len(weights) or not np.isfinite(weights).all():
        raise InvalidInput("needs one finite weight for each metric")
    mean = np.sum([weight * arms.mean for arms, weight in zip(metrics, weights, strict=True)], axis=0)
    variance = np.sum(
        [weight**2 * arms.variance for arms, weight in zip(metrics, weights, strict=True)], axis=0
    )
    return NormalArms(mean, np.sqrt(variance), np.full(len(mean), 1e12))


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """Arms that no other arm beats in every metric.

    `on` is the frontier of the posterior means; `probability` how likely each arm is on it, by
    Monte Carlo, and `standard_error` of that; all of shape (n_arms,).
    """

    on: NDArray[np.bool_]
    probability: FloatArray
    standard_error: FloatArray


def frontier(
    metrics: Sequence[Arms], signs: Sequence[int], *, rng: Generator, draws: int = 4_000
) -> Frontier:
    """Return the Pareto frontier.

    For each metric, `signs` say whether more (1) or less (-1) is better.

    An arm is dominated if another is at least as good in every metric and better in one. Posteriors
    of different metrics are taken as independent.

    Worked by hand: reward 0.5, 0.6, 0.4 at cost 1, 2, 2 (less is better): the third is dominated by
    both.

    Raises InvalidInput unless there is one sign a metric, each 1 or -1, and draws >= 1.
    """
    if not metrics or len(metrics) != len(signs) or any(sign not in (1, -1) for sign in signs):
        raise InvalidInput("needs one sign, 1 or -1, for each metric")
    if draws < 1:
        raise InvalidInput(f"draws must be at least 1, got {draws}")
    mean = np.stack([sign * arms.mean for arms, sign in zip(metrics, signs, strict=True)])
    drawn = np.stack([sign * arms.draw(rng, draws) for arms, sign in zip(metrics, signs, strict=True)])
    probability = _not_dominated(drawn).mean(axis=0)
    return Frontier(_not_dominated(mean), probability, np.sqrt(probability * (1 - probability) / draws))


def _not_dominated(values: FloatArray) -> NDArray[np.bool_]:
    """Return which arms no other dominates; `values` are (metrics, ..., n_arms), more is better."""
    n_arms = values.shape[-1]
    free = np.ones(values.shape[1:], dtype=bool)
    for arm in range(n_arms):
        rival = values[..., arm : arm + 1]
        free &= ~((rival >= values).all(axis=0) & (rival > values).any(axis=0))
    return free
