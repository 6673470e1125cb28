"""Contextual policies on real data beside their peers. `python -m benchmarks.contextual`.

Classification as a bandit: the context is served in random order, the arm is a class, the reward is 1 if it is
the right one. One pass; the figure is the share of right answers from the first row to the last. Every policy
here has the defaults that it is shipped with, chosen on synthetic data alone. The judge's scores are a third
problem, whose arms are models and whose reward is (score - 1) / 9.

Peers and data come from scikit-learn, MABWiser, bayesianbandits and Vowpal Wabbit where they are installed; they
are no dependencies of Wald. Peers learn after every row, ours after every BATCH rows, as a server would.
"""

import csv
import sys
import time
import timeit
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.random import Generator, default_rng

from bandits.arms import BetaArms, FloatArray
from bandits.allocation import thompson as thompson_of_arms
from bandits.contextual import LinearArms, thompson, ucb
from bandits.features import UNIT, Categorical, Hashed, IntArray, Numeric, Schema
from bandits.linear import LinearTotals, disjoint, hybrid
from bandits.logistic import LogisticTotals, logistic
from benchmarks.harness import show
from stats.totals import RewardTotals

SHUFFLES = 20
BATCH = 10
FLOOR = 0.0
SCORES = Path("/work/shared/data/llm_judge_scores.csv")


class Problem(NamedTuple):
    """Contexts in fixed point (n, d), and the reward that each arm would earn (n, n_arms)."""

    contexts: IntArray
    rewards: FloatArray


class Learner(Protocol):
    """What plays: chooses for a context, learns from batches."""

    def choose(self, context: IntArray) -> int: ...
    def learn(self, contexts: IntArray, arms: IntArray, rewards: FloatArray) -> None: ...
