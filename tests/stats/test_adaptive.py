"""Estimates from data that a bandit allocated: worked by hand, and their coverage by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from stats import adaptive
from stats.adaptive import ArmArrays, ArmPeriod
from stats.errors import InsufficientData, InvalidInput
from stats.interval import Interval
from stats.totals import MeanTotals


def test_sums_of_events_are_the_sums_of_totals():
    rewards = [1.0, 0.25, 0.5]
    events = [ArmPeriod.event(r, propensity=0.25, share=0.25) for r in rewards]
    events += [ArmPeriod.event(None, propensity=0.75, share=0.25)] * 4
    total = events[0]
    for event in events[1:]:
        total = total + event
    plain = ArmPeriod.constant(7, 0.25, MeanTotals.from_sums(3, sum(rewards), sum(r * r for r in rewards)))
    for name in ArmPeriod.__struct_fields__:
        assert getattr(total, name) == pytest.approx(getattr(plain, name))
    assert ArmPeriod.event(1.0, propensity=0.25, share=0.25) == ArmPeriod(1, 0.25, 1, 4, 16, 4, 16, 16)


def test_adaptive_estimates_worked_by_hand():
    period = ArmPeriod.constant(400, 0.5, MeanTotals(200, 0.5, 50.0))
    caution = 1 + 3 / math.sqrt(200)
    for weights in ("uniform", "propensity"):
        found = adaptive.adaptive_mean([period], weights=weights)
        assert found.value == pytest.approx(0.5)
        assert found.standard_error == pytest.approx(math.sqrt(0.5 / 400 * caution))
    other = ArmPeriod.constant(400, 0.5, MeanTotals(200, 1.0, 0.0))
    difference = adaptive.adaptive_difference([period], [other])
    # Scores of the control 1/2, 1/2, 3/2, -1/2 beside 3/2, 3/2, 1/2, 1/2 of the treatment:
    # variances 1/2 and 1/4, covariance 0.
    assert difference.value == pytest.approx(0.5)
    assert difference.standard_error == pytest.approx(math.sqrt(0.75 / 400 * caution))
    assert difference.interval(alpha=0.05).lower < 0.5
    with pytest.raises(InsufficientData):
        adaptive.adaptive_mean([ArmPeriod.constant(98, 0.5, MeanTotals(49, 0.5, 5.0))])
    with pytest.raises(InvalidInput):
        adaptive.adaptive_difference([period], [ArmPeriod.constant(500, 0.5, MeanTotals(200, 1.0, 0.0))])


def test_importance_weighting_covers_and_narrows():
    period = ArmPeriod.constant(100_000, 0.1, MeanTotals.from_sums(10_000, 3_000, 3_000))
    found = adaptive.importance_sequence([period], alpha=0.05, tuned_to=100_000, expected_variance=3)
    assert 0.25 < found.lower < 0.3 < found.upper < 0.35
    assert adaptive.importance_sequence(
        [ArmPeriod(0, 0.5)], alpha=0.05, tuned_to=9, expected_variance=1
    ) == Interval(0, 1)
    bad = ArmPeriod.constant(100, 0.1, MeanTotals(10, 2.0, 0.0))
    with pytest.raises(InvalidInput):
        adaptive.importance_sequence([bad], alpha=0.05, tuned_to=9, expected_variance=1)


def test_scores_of_one_pull_among_two_assignments():
    arm = ArmArrays.of(
        [ArmPeriod.event(1.0, propensity=0.5, share=0.5) + ArmPeriod.event(None, propensity=0.5, share=0.5)]
    )
    total, squares = arm.score_sums(np.array([0.5]))
    assert (float(total[0]), float(squares[0])) == (2.0, 0.5**2 + 1.5**2)


def test_ipw_is_horvitz_and_thompsons_mean_with_a_larger_error():
    """400 assignments, 200 pulls at 1/2, half of them with reward 1: scores 2, 0, 0, 0 in equal parts."""
    half = [ArmPeriod.constant(400, 0.5, MeanTotals.from_sums(200, 100, 100))]
    aipw, ipw = (adaptive.adaptive_mean(half, scores=scores) for scores in ("aipw", "ipw"))
    assert ipw.value == aipw.value == pytest.approx(0.5)
    assert ipw.standard_error == pytest.approx(aipw.standard_error * math.sqrt(3 / 2))
    assert ipw.standard_error == pytest.approx(math.sqrt(3 / 4 / 400 * (1 + 3 / math.sqrt(200))))
    other = [ArmPeriod.constant(400, 0.5, MeanTotals.from_sums(200, 140, 140))]
    difference = adaptive.adaptive_difference(half, other, scores="ipw")
    assert difference.value == pytest.approx(2 * 140 / 400 - 2 * 100 / 400)


def test_ipw_covers_at_its_look_under_moving_propensities():
    """Propensities 0.5, then 0.2 or 0.8 by what came; limit: binomial, 1e-6 at 0.05. Planted: plain means."""
    rng, runs = np.random.default_rng(20260101), 600
    missed, naive_bias = 0, []
    for _ in range(runs):
        first = rng.random(100) < 0.5
        seen = rng.random(100) < 0.3
        share = 0.9 if seen[first].mean() > 0.3 else 0.1
        second = rng.random(900) < share
        later = rng.random(900) < 0.3
        periods = []
        for pulled, reward, propensity in ((first, seen, 0.5), (second, later, share)):
            hits = int(reward[pulled].sum())
            totals = MeanTotals.from_sums(int(pulled.sum()), hits, hits)
            periods.append(ArmPeriod.constant(len(pulled), propensity, totals))
        found = adaptive.adaptive_mean(periods, weights="uniform", scores="ipw").interval(alpha=0.05)
        missed += not found.lower <= 0.3 <= found.upper
        naive_bias.append(np.concatenate([seen[first], later[second]]).mean() - 0.3)
    assert missed <= stats.binom.ppf(1 - 1e-6, runs, 0.05)
    assert np.mean(naive_bias) < -3 * np.std(naive_bias) / math.sqrt(runs)  # what it is for
