"""`best_arm` stops on the evidence of the readout, which no drift common to all variants makes."""

import math

import msgspec
import numpy as np
import pytest
from scipy.stats import binom

from app.analysis.evidence.comparison import compare
from app.analysis.observed import Observed
from app.analysis.readout.stopping import log_evidence, stopping
from app.experiments.metrics import REWARD
from app.experiments.plan import AnalysisPlan
from app.experiments.policies import BestArmPolicy, ThompsonPolicy
from app.ledger.units.measures import REWARD_METRIC
from bandits.identification import Undecided, Winner, decide
from bandits.totals import ArmTotals
from benchmarks.whole_path import BATCH_US, Signal, WholePath
from stats.totals import MeanTotals, RewardTotals
from tests.analysis.drawn import SOLVED, drawn

PLAN = AnalysisPlan()
HALF = {"a": (1_000, 0.3, 0.5), "b": (1_000, 0.4, 0.5)}


def rewards(strata, **fields):
    """Return what a bandit observed of the reward."""
    data = drawn(strata, **fields)
    cells = [
        msgspec.structs.replace(cell, metrics={REWARD: cell.metrics[SOLVED.key].moments})
        for cell in data.cells
    ]
    units = [msgspec.structs.replace(unit, metrics={REWARD: unit.metrics[SOLVED.key]}) for unit in data.drawn]
    return msgspec.structs.replace(data, cells=cells, drawn=units)


def test_it_stops_where_the_interval_at_delta_excludes_zero():
    data = rewards([HALF])
    decision = stopping(BestArmPolicy(delta=0.05), PLAN, data)
    assert isinstance(decision, Winner)
    assert (decision.arm, decision.n) == (1, 2_000.0)
    assert decision.log_threshold == pytest.approx(math.log(1 / 0.05))
    just = math.exp(-decision.log_evidence)
    assert isinstance(stopping(BestArmPolicy(delta=1.01 * just), PLAN, data), Winner)
    assert isinstance(stopping(BestArmPolicy(delta=0.99 * just), PLAN, data), Undecided)


def test_it_ends_on_equal_variants_if_a_difference_does_not_matter():
    equal = rewards([{"a": (5_000, 0.3, 0.5), "b": (5_000, 0.3, 0.5)}])
    assert isinstance(stopping(BestArmPolicy(), PLAN, equal), Undecided)
    assert isinstance(stopping(BestArmPolicy(indifference=0.05), PLAN, equal), Winner)


def test_it_compares_the_variants_that_are_served():
    three = {**HALF, "c": (1_000, 0.39, 1 / 3)}
    three = {name: (n, rate, 1 / 3) for name, (n, rate, _) in three.items()}
    assert isinstance(stopping(BestArmPolicy(), PLAN, rewards([three])), Undecided)
    decision = stopping(BestArmPolicy(), PLAN, rewards([three], retired=("c",)))
    assert isinstance(decision, Winner)
    assert decision.arm == 1
    assert stopping(BestArmPolicy(), PLAN, rewards([HALF], retired=("b",))) is None
    empty = Observed(variants=("a", "b"), control="a", cells=[], adaptive=True)
    assert stopping(BestArmPolicy(), PLAN, empty) is None


def test_a_total_failure_of_all_variants_has_no_winner():
    failed = rewards([{"a": (5_000, 0.0, 0.5), "b": (5_000, 0.0, 0.5)}])
    decision = stopping(BestArmPolicy(), PLAN, failed)
    assert isinstance(decision, Undecided)
    assert decision.log_evidence == 0


def drifting(policy, seed):
    """Return whether the readout, and the rule for constant means, ever declare a winner.

    The variants are equal. The rate of both rises from 0.1 to 0.7 over 40 batches.
    """
    rng, ours, constant = np.random.default_rng([20261204, seed]), False, False
    path, rule = WholePath(policy), BestArmPolicy()
    for batch in range(40):
        first, now_us = len(path.log), batch * BATCH_US
        path.assign(50, now_us, rng)
        scores = (rng.random(50) < 0.1 + 0.6 * batch / 39).astype(float)
        path.commit([Signal(first + k, score, now_us) for k, score in enumerate(scores)], now_us)
        path.allocate()
        data = path.observed()
        ours = ours or isinstance(stopping(rule, PLAN, data), Winner)
        totals = [data.totals(REWARD, arm) or MeanTotals(0, 0.0, 0.0) for arm in data.variants]
        sums = [RewardTotals(arm.n, arm.n * arm.mean, arm.n * arm.mean) for arm in totals]
        constant = constant or isinstance(decide(ArmTotals.of(sums, [0, 0]), delta=rule.delta), Winner)
    return ours, constant


@pytest.mark.parametrize("policy", [BestArmPolicy(), ThompsonPolicy()], ids=lambda policy: policy.kind)
def test_no_drift_makes_a_winner_of_equal_variants(policy):
    """At 5 % it passes with probability 1 - 1e-6; under Thompson the other rule must fail."""
    runs = 10
    ours, constant = np.sum([drifting(policy, seed) for seed in range(runs)], axis=0)
    limit = binom.ppf(1 - 1e-6, runs, 0.05)
    assert ours <= limit
    assert constant > limit or policy.decides


def test_evidence_is_the_level_at_which_the_bound_is_reached():
    data = rewards([HALF])
    evidence = compare(REWARD_METRIC, PLAN, data, "b").evidence
    level = math.exp(-log_evidence(evidence, above=0.02))
    assert evidence.interval(level).lower == pytest.approx(0.02, abs=1e-9)
    assert log_evidence(evidence, above=0.9) == 0.0
