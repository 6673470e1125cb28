"""Relative differences: statsmodels, coverage by simulation, and controls near 0."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import confint_proportions_2indep

from stats import relative
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.relative import fieller_interval, risk_ratio_interval
from stats.totals import ProportionTotals as P

Z2 = 0.04550026389635842  # alpha at which the normal quantile is 2


arms = st.integers(1, 100).flatmap(lambda n: st.builds(P, st.just(n), st.integers(0, n)))


def bounds(interval):
    return interval.lower, interval.upper


def test_the_worked_cases_hold():
    fieller = fieller_interval(Estimate(12, 1), Estimate(10, 1), alpha=Z2)
    assert bounds(fieller) == pytest.approx((-0.0727, 0.5727), abs=1e-4)
    assert risk_ratio_interval(P(9, 0), P(1, 1), alpha=0.05).lower == -1


@given(arms, arms.filter(lambda arm: arm.successes > 0))
def test_the_risk_ratio_agrees_with_statsmodels_where_that_has_an_answer(x, y):
    ours = risk_ratio_interval(x, y, alpha=0.05)
    if 0 < x.successes < x.n and y.successes < y.n:
        reference = confint_proportions_2indep(
            x.successes, x.n, y.successes, y.n, compare="ratio", method="score", correction=False
        )
        assert (ours.lower + 1, ours.upper + 1) == pytest.approx(np.real(reference), rel=1e-4)
    assert -1 <= ours.lower < ours.upper < math.inf


def test_relative_differences_are_refused_where_the_control_may_be_zero():
    with pytest.raises(InsufficientData, match="unbounded"):
        fieller_interval(Estimate(12, 1), Estimate(1.9, 1), alpha=0.05)
    with pytest.raises(InvalidInput):
        fieller_interval(Estimate(12, 1), Estimate(0, 1), alpha=0.05)
    with pytest.raises(InsufficientData, match="no upper bound"):
        risk_ratio_interval(P(9, 3), P(9, 0), alpha=0.05)


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


@given(st.floats(0.1, 50), st.floats(-50, 50), st.floats(0.001, 0.2))
def test_relative_intervals_of_negative_means_mirror_those_of_positive_ones(control, treatment, alpha):
    arms = Estimate(treatment, 0.3, 90.0), Estimate(control, 0.02, 70.0)
    try:
        up = relative.fieller_interval(*arms, alpha=alpha)
    except InsufficientData:
        with pytest.raises(InsufficientData):
            relative.fieller_interval(-arms[0], -arms[1], alpha=alpha)
        return
    down = relative.fieller_interval(-arms[0], -arms[1], alpha=alpha)
    assert (down.lower, down.upper) == (-up.upper, -up.lower)
