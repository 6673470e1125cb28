"""Bandit policies as pure functions: totals in, allocation out; the caller owns randomness.

| purpose | names |
|---|---|
| what policies read | `ArmTotals`; `discounted`, `windowed`, `warm_start` |
| posteriors of the arms' means | `BetaArms`, `NormalArms`, `GammaArms` |
| questions to posteriors | `probability_best`, `expected_loss` |
| policies without a context | `thompson`, `top_two`, `upper_bound`, `epsilon_greedy`, `exp3_ix` |
| more than one metric | `Constraint`, `constrained_thompson`, `scalarised`, `frontier` |
| the best arm, with a guarantee | `decide`, `track_and_stop`, `optimal_shares` |
| policies that read a context | `Schema`, `disjoint`, `hybrid`, `logistic`, `contextual` |
| what another policy would have earned | `Served`, `ips`, `doubly_robust` |
| traffic to come | `simulate`, the classes of `environments`, the draws of `pulls` |
"""

from bandits import contextual, environments, pulls
from bandits.allocation import Allocation, compare, fixed, limited
from bandits.arms import Arms, BetaArms, GammaArms, NormalArms
from bandits.best import expected_loss, probability_best
from bandits.drift import Drift, detect
from bandits.evaluation import (
    Served,
    anytime_interval,
    cross_fitted,
    doubly_robust,
    ips,
    self_normalised,
    self_normalised_doubly_robust,
)
from bandits.exp3 import LossTotals, exp3_ix, learning_rate
from bandits.features import Boolean, Categorical, Hashed, Numeric, Schema
from bandits.forgetting import discounted, warm_start, windowed
from bandits.greedy import decreasing_epsilon, epsilon_greedy
from bandits.identification import Undecided, Winner, decide, optimal_shares, track_and_stop
from bandits.linear import LinearTotals, disjoint, hybrid
from bandits.logistic import LogisticTotals, logistic
from bandits.objective import Constraint, constrained_thompson, frontier, scalarised
from bandits.segments import partially_pooled
from bandits.simulation import Regret, simulate
from bandits.thompson import optimistic_thompson, thompson, top_two
from bandits.totals import ArmTotals
from bandits.ucb import upper_bound

__all__ = [
    "Allocation",
    "ArmTotals",
    "Arms",
    "BetaArms",
    "Boolean",
    "Categorical",
    "Constraint",
    "Drift",
    "GammaArms",
    "Hashed",
    "LinearTotals",
    "LogisticTotals",
    "LossTotals",
    "NormalArms",
    "Numeric",
    "Regret",
    "Schema",
    "Served",
    "Undecided",
    "Winner",
    "anytime_interval",
    "compare",
    "constrained_thompson",
    "contextual",
    "cross_fitted",
    "decide",
    "decreasing_epsilon",
    "detect",
    "discounted",
    "disjoint",
    "doubly_robust",
    "environments",
    "epsilon_greedy",
    "exp3_ix",
    "expected_loss",
    "fixed",
    "frontier",
    "hybrid",
    "ips",
    "learning_rate",
    "limited",
    "logistic",
    "optimal_shares",
    "optimistic_thompson",
    "partially_pooled",
    "probability_best",
    "pulls",
    "scalarised",
    "self_normalised",
    "self_normalised_doubly_robust",
    "simulate",
    "thompson",
    "top_two",
    "track_and_stop",
    "upper_bound",
    "warm_start",
    "windowed",
]
