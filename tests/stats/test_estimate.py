"""Estimates, their intervals and tests, and tail probabilities far below the smallest double."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy import stats as scipy_stats
from scipy.stats import binom
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from stats import tails
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


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_welch_agrees_with_scipy(alternative):
    effect = mean_difference(TREATMENT, CONTROL)
    reference = scipy_stats.ttest_ind(FIRST, SECOND, equal_var=False, alternative=alternative)
    assert effect.test(alternative=alternative).p_value == pytest.approx(reference.pvalue, rel=1e-10)
    bounds = scipy_stats.ttest_ind(FIRST, SECOND, equal_var=False).confidence_interval(0.9)
    interval = effect.interval(alpha=0.1)
    assert (interval.lower, interval.upper) == pytest.approx((bounds.low, bounds.high), rel=1e-10)


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


# By scipy 1.17, t.logsf and norm.logsf, where these do not underflow; the last in closed form.
@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (lambda: tails.log_student_upper(1e5, 70), -660.254206779139),
        (lambda: tails.log_student_upper(40, math.inf), -804.6084420137539),
        (lambda: tails.log_student_upper(3, 5), -4.196402274894688),
        (lambda: tails.log_chi_square_upper(3000, 4), None),
    ],
)
def test_tails_keep_their_logarithm_where_probabilities_underflow(ours, reference):
    if reference is None:  # With 4 degrees of freedom the tail is exp(-x/2) (1 + x/2).
        reference = -1500 + math.log(1501)
    assert ours() == pytest.approx(reference, rel=1e-11)


def test_a_binomial_tail_that_underflows_is_the_sum_of_its_terms():
    terms = binom.logpmf(np.arange(900, 1001), 1000, 0.3)
    assert tails.log_binomial_upper(900, 1000, 0.3) == pytest.approx(special.logsumexp(terms), rel=1e-10)


@given(st.integers(1, 10**9), st.floats(0, 1), st.floats(1e-9, 1 - 1e-9))
def test_quantiles_of_counts_are_where_scipys_distribution_passes_the_probability(n, p, probability):
    k = tails.binomial_quantile(probability, n, p)
    assert binom.cdf(k, n, p) >= probability * (1 - 1e-9)
    assert binom.cdf(k - 1, n, p) < probability * (1 + 1e-9)
    k = tails.binomial_upper_quantile(probability, n, p)
    assert binom.sf(k, n, p) <= probability * (1 + 1e-9)
    assert k == 0 or binom.sf(k - 1, n, p) > probability * (1 - 1e-9)


def test_quantiles_of_counts_hold_in_the_worked_cases():
    assert tails.binomial_quantile(0.025, 10, 0.5) == 2
    assert tails.binomial_upper_quantile(0.025, 10, 0.5) == 8
    assert (tails.binomial_quantile(0.5, 7, 0.0), tails.binomial_quantile(0.5, 7, 1.0)) == (0, 7)


def test_many_degrees_of_freedom_approach_the_normal():
    # To first order log P differs by t^4 / (4 df).
    near = tails.log_student_upper(40, 1e8) - tails.log_student_upper(40, math.inf)
    assert near == pytest.approx(40**4 / 4e8, rel=1e-2)


@given(st.floats(-8, 8), st.floats(1, 1e5))
def test_tails_agree_with_scipy_where_it_has_digits(t, freedom):
    """scipy itself is off by 3e-9 at t = 1e-8 and one degree: log(1/2 - t / pi) is -0.6931471869."""
    reference = float(scipy_stats.t.logsf(t, freedom))
    assert tails.log_student_upper(t, freedom) == pytest.approx(reference, rel=1e-8, abs=1e-12)


def test_a_p_value_is_never_zero():
    test = Estimate(1e6, 1.0).test()
    assert 0 < test.p_value < 1e-300
    assert test.log_p_value == pytest.approx(-5e11, rel=1e-6)
    assert Estimate(0.0, 1.0).test().p_value == 1
