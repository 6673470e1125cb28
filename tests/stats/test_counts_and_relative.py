"""Rare events, relative differences, and quantiles from a sketch."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import confint_proportions_2indep
from statsmodels.stats.rates import confint_poisson

from stats.counts import (
    fisher_test,
    rate_difference_interval,
    rate_interval,
    rate_ratio_interval,
    rate_ratio_test,
)
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.quantiles import (
    QuantileSketch,
    bucket_numbers,
    quantile,
    quantile_difference_interval,
    quantile_interval,
)
from stats.relative import fieller_interval, log_ratio, risk_ratio_interval
from stats.totals import CountTotals as C
from stats.totals import ProportionTotals as P

Z2 = 0.04550026389635842  # alpha at which the normal quantile is 2
counts = st.builds(C, st.integers(0, 300), st.floats(0.1, 1e6))
arms = st.integers(1, 100).flatmap(lambda n: st.builds(P, st.just(n), st.integers(0, n)))


def bounds(interval):
    return interval.lower, interval.upper


def test_the_worked_cases_hold():
    assert bounds(rate_interval(C(0, 1), alpha=0.05)) == pytest.approx((0, -math.log(0.025)))
    assert rate_ratio_test(C(5, 1), C(0, 1)).p_value == pytest.approx(1 / 16)
    assert bounds(rate_ratio_interval(C(0, 1), C(1, 1), alpha=0.05)) == pytest.approx((0, 39))
    assert bounds(rate_difference_interval(C(0, 1), C(0, 1), alpha=0.05)) == pytest.approx(
        (-3.689, 3.689), abs=1e-3
    )
    assert fisher_test(P(3, 3), P(3, 0)).p_value == pytest.approx(0.1)
    fieller = fieller_interval(Estimate(12, 1), Estimate(10, 1), alpha=Z2)
    assert bounds(fieller) == pytest.approx((-0.0727, 0.5727), abs=1e-4)
    logarithm = log_ratio(Estimate(12, 0.6), Estimate(10, 0.5))
    assert (logarithm.value, logarithm.standard_error) == pytest.approx((math.log(1.2), 0.0707), abs=1e-4)
    assert risk_ratio_interval(P(9, 0), P(1, 1), alpha=0.05).lower == -1


@given(counts, st.floats(0.001, 0.3))
def test_a_rate_agrees_with_statsmodels(total, alpha):
    reference = confint_poisson(total.events, total.exposure, method="exact-c", alpha=alpha)
    reference = [0 if math.isnan(bound) else bound for bound in reference]
    assert bounds(rate_interval(total, alpha=alpha)) == pytest.approx(reference, rel=1e-8)


@given(counts, counts.filter(lambda total: total.events > 0), st.floats(0.01, 0.3), st.floats(0.1, 10))
def test_the_rate_ratio_agrees_with_the_binomial_test_and_its_interval_with_its_test(x, y, alpha, null):
    share = null * x.exposure / (null * x.exposure + y.exposure)
    for side in ("greater", "less"):
        reference = scipy_stats.binomtest(x.events, x.events + y.events, share, alternative=side)
        ours = rate_ratio_test(x, y, null=null, alternative=side)
        assert ours.p_value == pytest.approx(reference.pvalue, rel=1e-6, abs=1e-300)
    interval, p = rate_ratio_interval(x, y, alpha=alpha), rate_ratio_test(x, y, null=null).p_value
    if abs(p - alpha) > 1e-6:
        assert (p > alpha) == (interval.lower < null < interval.upper)


@settings(max_examples=50)
@given(arms, arms)
def test_fisher_agrees_with_scipy(x, y):
    table = [[x.successes, x.n - x.successes], [y.successes, y.n - y.successes]]
    for side in ("greater", "less"):
        reference = scipy_stats.fisher_exact(table, alternative=side).pvalue
        assert fisher_test(x, y, alternative=side).p_value == pytest.approx(reference, rel=1e-6)


@given(arms, arms.filter(lambda arm: arm.successes > 0))
def test_the_risk_ratio_agrees_with_statsmodels_where_that_has_an_answer(x, y):
    ours = risk_ratio_interval(x, y, alpha=0.05)
    if 0 < x.successes < x.n and y.successes < y.n:
        reference = confint_proportions_2indep(
            x.successes, x.n, y.successes, y.n, compare="ratio", method="score", correction=False
        )
        assert (ours.lower + 1, ours.upper + 1) == pytest.approx(np.real(reference), rel=1e-4)
    assert -1 <= ours.lower < ours.upper < math.inf


def test_a_billion_events_keep_their_digits():
    test = rate_ratio_test(C(10**9, 1), C(10**9 - 300_000, 1))
    assert test.p_value == pytest.approx(2 * scipy_stats.norm.sf(300_000 / (2 * 10**9) ** 0.5), rel=1e-3)
    assert fisher_test(P(10**9, 10**6), P(10**9, 10**6 + 10**5)).log_p_value < -2_000


def test_relative_differences_are_refused_where_the_control_may_be_zero():
    with pytest.raises(InsufficientData, match="unbounded"):
        fieller_interval(Estimate(12, 1), Estimate(1.9, 1), alpha=0.05)
    with pytest.raises(InsufficientData, match="no logarithm"):
        log_ratio(Estimate(12, 1), Estimate(2.9, 1))
    with pytest.raises(InvalidInput):
        fieller_interval(Estimate(12, 1), Estimate(0, 1), alpha=0.05)
    with pytest.raises(InsufficientData, match="no upper bound"):
        risk_ratio_interval(P(9, 3), P(9, 0), alpha=0.05)
    with pytest.raises(InsufficientData, match="no upper bound"):
        rate_ratio_interval(C(5, 1), C(0, 1), alpha=0.05)
    with pytest.raises(InsufficientData):
        rate_ratio_test(C(0, 1), C())
    with pytest.raises(InsufficientData, match="exposure"):
        rate_interval(C(), alpha=0.05)


def test_fieller_covers_where_dividing_the_difference_does_not():
    """The interval of the difference divided by the control's mean ignores that mean's own error."""
    rng = np.random.default_rng(20260101 + 5)
    truth, missed, naive_missed = 1.0, 0, 0
    for treatment, control in rng.normal((20, 10), 2.0, size=(2_000, 2)).tolist():
        arms = Estimate(treatment, 2.0), Estimate(control, 2.0)
        interval = fieller_interval(*arms, alpha=0.05)
        missed += not interval.lower <= truth <= interval.upper
        difference = (arms[0] - arms[1]).interval(alpha=0.05)
        naive_missed += not difference.lower <= truth * control <= difference.upper
    limit = scipy_stats.binom.ppf(1 - 1e-6, 2_000, 0.05)
    assert missed <= limit
    assert naive_missed > limit  # planted bug


observations = st.lists(
    st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-6), min_size=1, max_size=60
)


@given(observations, st.floats(0.01, 0.99), st.sampled_from([0.005, 0.01, 0.1]))
def test_a_quantile_has_the_promised_relative_error(values, q, accuracy):
    sketch = QuantileSketch.from_observations(np.array(values), accuracy=accuracy)
    exact = sorted(values)[max(math.ceil(q * len(values)), 1) - 1]
    assert abs(quantile(sketch, q) - exact) <= accuracy * abs(exact) * (1 + 1e-9)


@given(observations, observations)
def test_sketches_merge_like_their_observations(first, second):
    merged, pooled = (
        QuantileSketch.from_observations(np.array(first), accuracy=0.01)
        + QuantileSketch.from_observations(np.array(second), accuracy=0.01),
        QuantileSketch.from_observations(np.array(first + second), accuracy=0.01),
    )
    assert merged == pooled
    assert hash(merged) == hash(pooled)
    revised = QuantileSketch.from_counts(
        [*pooled.buckets, *((number, -count) for number, count in merged.buckets)], accuracy=0.01
    )
    assert revised == QuantileSketch(0.01)


def test_buckets_and_ranks_are_the_worked_ones():
    assert bucket_numbers(np.array([3e-9, 0.0, -3e-9]), accuracy=1 / 3).tolist() == [2, 0, -2]
    sketch = QuantileSketch.from_observations(np.arange(1.0, 11.0), accuracy=1e-4)
    assert bounds(quantile_interval(sketch, 0.5, alpha=0.05)) == pytest.approx((2, 9), rel=3e-4)


def test_the_interval_of_a_quantile_agrees_with_scipy():
    values = np.random.default_rng(20260101 + 6).lognormal(size=5_000)
    sketch = QuantileSketch.from_observations(values, accuracy=1e-4)
    reference: Any = scipy_stats.quantile_test(values, p=0.95).confidence_interval(0.95)
    assert bounds(quantile_interval(sketch, 0.95, alpha=0.05)) == pytest.approx(
        (reference.low, reference.high), rel=1e-3
    )
    wider = quantile_interval(sketch, 0.95, alpha=0.05, design_effect=4.0)
    assert wider.lower < reference.low
    assert reference.high < wider.upper
    difference = quantile_difference_interval(sketch, sketch, 0.95, alpha=0.05)
    assert difference.lower == pytest.approx(-difference.upper)


def test_the_95th_percentile_needs_72_observations():
    values = np.arange(1.0, 73.0)
    quantile_interval(QuantileSketch.from_observations(values, accuracy=0.01), 0.95, alpha=0.05)
    with pytest.raises(InsufficientData, match="71 observations"):
        quantile_interval(QuantileSketch.from_observations(values[1:], accuracy=0.01), 0.95, alpha=0.05)
    with pytest.raises(InsufficientData):
        quantile(QuantileSketch(0.01), 0.5)
    with pytest.raises(InvalidInput, match="do not merge"):
        QuantileSketch(0.01) + QuantileSketch(0.02)
    with pytest.raises(InvalidInput):
        bucket_numbers(np.array([np.nan]), accuracy=0.01)
    with pytest.raises(InvalidInput, match="positive"):
        QuantileSketch(0.01, ((1, 0),))
