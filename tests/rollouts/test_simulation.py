"""Whole rollouts in simulation, through verdicts and decider: a small part of `make bench-rollouts`.

Gates are exact binomial limits: a method that keeps its promise fails one with probability below 1e-6. The
benchmark has the full sizes, and the tables.
"""

import numpy as np
import pytest
from scipy.stats import binom, norm

from benchmarks import rollouts as bench
from benchmarks.rollout_rules import RULES, Requests, is_high
from benchmarks.rollout_simulation import HEALTHY, World, plan_for, planned_units
from benchmarks.validity import generator

RUNS = 60


def at_most(rate: float, runs: int = RUNS) -> float:
    return float(binom.ppf(1 - 1e-6, runs, rate)) / runs


def at_least(rate: float, runs: int = RUNS) -> float:
    return float(binom.ppf(1e-6, runs, rate)) / runs


def ends(canary, *, runs=RUNS, seed, times=1.0, only=()):
    return bench.figures(bench.ramp(canary, runs=runs, seed=seed, times=times, only=only))


def test_a_canary_like_the_control_reaches_everything_at_the_traffic_the_planner_asked_for():
    result = ends(lambda _: HEALTHY, seed=700)
    assert result.completed >= at_least(0.95)
    assert result.rolled_back <= at_most(0.01)


@pytest.mark.parametrize(
    ("canary", "median_max"),
    [(World(error=0.03), 900), (World(mean=1.15), 400), (World(sigma=0.7), 2_000)],
)
def test_a_bad_canary_is_rolled_back_soon(canary, median_max):
    result = ends(lambda _: canary, seed=701, times=3.0)
    assert result.rolled_back >= at_least(0.99)
    assert result.median_units <= median_max


@pytest.mark.parametrize(
    ("metric", "canary"), [("error_rate", World(error=0.03)), ("latency", World(mean=1.15))]
)
def test_rollback_takes_at_most_half_again_what_the_optimal_test_takes(metric, canary):
    result = ends(lambda _: canary, runs=200, seed=702, times=3.0, only=(metric,))
    assert result.median_units <= 1.5 * bench.optimal(metric, 0.01)


def test_a_canary_that_breaks_after_its_first_stage_is_rolled_back():
    late = bench.ramp(bench.broken_later, runs=20, seed=703, times=2.0)
    assert {run.end for run in late} <= {"rolled_back", "waiting"}
    assert np.mean([run.end == "rolled_back" for run in late]) >= at_least(0.99, 20)
    assert {run.stage for run in late} == {1}
    assert np.median([run.stage_units for run in late]) <= 600


def test_the_gate_sees_a_point_rule():
    """The planted bug: a rule on point estimates aborts nearly every healthy canary."""
    rng = generator(704)
    aborts = []
    for _ in range(30):
        control, canary = (Requests.draw(HEALTHY, 5_000, rng) for _ in range(2))
        aborts.append(RULES["point rules"](control, canary, HEALTHY) is not None)
    assert np.mean(aborts) > at_most(0.01, 30)


def test_kayentas_rule_is_the_interval_of_the_shift_by_pairs():
    """Beside another way to the same interval: the sorted differences of all pairs."""
    rng, decided = generator(706), set()
    for shift in np.linspace(-0.5, 1.5, 41):
        x, y = rng.standard_normal(40) + shift, rng.standard_normal(50)
        pairs = np.sort((x[:, None] - y).ravel())
        rank = 40 * 50 / 2 - norm.isf(0.01) * np.sqrt(40 * 50 * 91 / 12)
        lower, estimate = pairs[int(rank)], np.median(pairs)
        if abs(lower - 0.25 * abs(estimate)) > 0.02:  # of the continuity correction and of whole ranks
            assert is_high(x, y) == (lower > 0.25 * abs(estimate))
            decided.add(is_high(x, y))
    assert decided == {True, False}


def test_a_canary_at_its_margin_rarely_passes_a_stage():
    """At most beta, 5 %, for each guardrail alone; at the margin harm is what is usually found first."""
    for name, world in bench.AT_MARGIN.items():
        outcomes = bench.ramp(lambda _, w=world: w, runs=RUNS, seed=707, times=2.0, only=(name,))
        assert np.mean([run.stage > 0 for run in outcomes]) <= at_most(0.05)


def test_the_planner_asks_for_less_where_there_is_less_to_show():
    assert planned_units(plan_for(only=("latency",))) < planned_units(plan_for())


@pytest.mark.skipif(
    not bench.JUDGE_SCORES.exists(), reason="real judge scores are not beside this repository"
)
def test_of_real_models_the_weaker_is_rolled_back_and_the_better_promoted():
    scores = bench.judge_scores()
    rng = generator(705)
    for judge, control, canary in bench.judge_pairs(scores):
        theirs, ours = scores[judge, control], scores[judge, canary]
        result = bench.figures([bench.replay(theirs, ours, rng=rng, per_stage=1_000) for _ in range(10)])
        if ours.mean() < theirs.mean():
            assert result.rolled_back >= at_least(0.99, 10)
        else:
            assert result.completed >= at_least(0.95 if canary == control else 0.99, 10)
