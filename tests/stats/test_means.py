"""Welch's comparison against scipy."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stats.means import mean_difference
from stats.totals import MeanTotals

RNG = np.random.default_rng(20260101)


FIRST, SECOND = RNG.normal(1, 2, size=23), RNG.normal(0, 1, size=31)


TREATMENT, CONTROL = MeanTotals.from_observations(FIRST), MeanTotals.from_observations(SECOND)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_welch_agrees_with_scipy(alternative):
    effect = mean_difference(TREATMENT, CONTROL)
    reference = scipy_stats.ttest_ind(FIRST, SECOND, equal_var=False, alternative=alternative)
    assert effect.test(alternative=alternative).p_value == pytest.approx(reference.pvalue, rel=1e-10)
    bounds = scipy_stats.ttest_ind(FIRST, SECOND, equal_var=False).confidence_interval(0.9)
    interval = effect.interval(alpha=0.1)
    assert (interval.lower, interval.upper) == pytest.approx((bounds.low, bounds.high), rel=1e-10)
