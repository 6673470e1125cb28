"""Estimates: interval and test are two sides of one rule; what has no answer."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.means import mean, mean_difference
from stats.totals import MeanTotals

RNG = np.random.default_rng(20260101)


FIRST, SECOND = RNG.normal(1, 2, size=23), RNG.normal(0, 1, size=31)


TREATMENT, CONTROL = MeanTotals.from_observations(FIRST), MeanTotals.from_observations(SECOND)


values = st.floats(-1e6, 1e6)


errors = st.floats(1e-6, 1e6)


freedoms = st.one_of(st.just(math.inf), st.floats(1, 1e6))


def test_the_worked_cases_hold():
    interval = Estimate(1.0, 0.5).interval(alpha=0.05)
    assert (interval.lower, interval.upper) == pytest.approx((0.02, 1.98), abs=1e-4)
    assert Estimate.of_independent(0.0, [(1, 4), (1, 4)]).degrees_of_freedom == pytest.approx(8)
    effect = mean_difference(MeanTotals(2, 2.0, 2.0), MeanTotals(2, 1.0, 2.0))
    assert (effect.value, effect.variance, effect.degrees_of_freedom) == pytest.approx((1, 2, 2))
    assert mean(MeanTotals(2, 2.0, 2.0)) == Estimate(2.0, 1.0, 1.0)


def test_equivalence_agrees_with_statsmodels():
    reference = CompareMeans(DescrStatsW(FIRST), DescrStatsW(SECOND)).ttost_ind(0.0, 3.0, usevar="unequal")
    ours = mean_difference(TREATMENT, CONTROL).equivalence_test(lower=0.0, upper=3.0)
    assert ours.p_value == pytest.approx(reference[0], rel=1e-10)


@given(values, errors, freedoms, values, st.floats(0.001, 0.5))
def test_the_interval_is_the_test(value, error, freedom, null, alpha):
    estimate = Estimate(value, error, freedom)
    interval, p = estimate.interval(alpha=alpha), estimate.test(null=null).p_value
    if abs(p - alpha) > 1e-6:
        assert (p > alpha) == (interval.lower < null < interval.upper)
    assert (estimate.lower_bound(alpha=alpha / 2), estimate.upper_bound(alpha=alpha / 2)) == pytest.approx(
        (interval.lower, interval.upper)
    )


@given(values, errors, values, errors)
def test_swapping_arms_flips_the_sign_and_keeps_the_p_value(a, first_error, b, second_error):
    first, second = Estimate(a, first_error, 10), Estimate(b, second_error, 20)
    assert (first - second).test() == flipped((second - first).test())
    assert -(first - second) == second - first


def flipped(test):
    return type(test)(-test.statistic, test.log_p_value)


def test_no_spread_or_too_few_units_is_no_certainty():
    with pytest.raises(InsufficientData, match="no spread"):
        mean_difference(MeanTotals(5, 1.0, 0.0), MeanTotals(5, 0.0, 0.0))
    with pytest.raises(InsufficientData):
        mean_difference(MeanTotals(1, 1.0, 0.0), CONTROL)
    with pytest.raises(InsufficientData):
        mean_difference(MeanTotals(), CONTROL)
    with pytest.raises(InvalidInput):
        Estimate(math.nan, 1.0)
    with pytest.raises(InvalidInput):
        Estimate(0.0, 1.0).interval(alpha=0)
    with pytest.raises(InvalidInput):
        Estimate(0.0, 1.0).equivalence_test(lower=1, upper=1)


def test_one_arm_without_spread_still_leaves_the_error_of_the_other():
    effect = mean_difference(MeanTotals(100, 0.0, 0.0), CONTROL)
    assert effect.standard_error == pytest.approx(mean(CONTROL).standard_error)


def test_a_p_value_is_never_zero():
    test = Estimate(1e6, 1.0).test()
    assert 0 < test.p_value < 1e-300
    assert test.log_p_value == pytest.approx(-5e11, rel=1e-6)
    assert Estimate(0.0, 1.0).test().p_value == 1
