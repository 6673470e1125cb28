"""Totals merge like the observations behind them."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stats.errors import InsufficientData, InvalidInput
from stats.totals import MeanTotals, ProportionTotals, RewardTotals

# Sixteenths are exact in binary, so pooled and merged sums are equal, not merely close.
rewards = st.lists(st.integers(0, 16).map(lambda sixteenths: sixteenths / 16))
numbers = st.lists(st.floats(-1e6, 1e6))


def totals_of(values):
    return RewardTotals(len(values), sum(values), sum(value**2 for value in values))


def mean_totals_of(values):
    exact = [Fraction(value) for value in values]
    return MeanTotals.from_sums(len(exact), sum(exact), sum(value**2 for value in exact))


@given(rewards, rewards)
def test_merging_equals_pooling(first, second):
    assert totals_of(first) + totals_of(second) == totals_of(first + second)


@given(rewards)
def test_the_mean_is_the_average_and_missing_without_rewards(values):
    assert totals_of(values).mean == (sum(values) / len(values) if values else None)


@given(numbers, numbers)
def test_merging_moments_equals_pooling_them(first, second):
    merged, pooled = mean_totals_of(first) + mean_totals_of(second), mean_totals_of(first + second)
    assert merged.n == pooled.n
    assert merged.mean == pytest.approx(pooled.mean, rel=1e-12, abs=1e-9)
    assert merged.m2 == pytest.approx(pooled.m2, rel=1e-9, abs=1e-3)


def test_moments_agree_with_numpy_even_where_the_mean_dwarfs_the_spread():
    values = 1e9 + np.random.default_rng(20260101).normal(size=1_000)
    totals = mean_totals_of(values.tolist())
    assert totals.mean == pytest.approx(values.mean(), rel=1e-15)
    assert totals.variance == pytest.approx(values.var(ddof=1), rel=1e-9)


def test_a_proportion_has_the_moments_of_its_zeros_and_ones():
    assert ProportionTotals(4, 1).moments == mean_totals_of([0, 0, 0, 1])
    assert ProportionTotals(4, 1) + ProportionTotals(6, 2) == ProportionTotals(10, 3)


def test_sums_that_no_sample_has_are_refused():
    with pytest.raises(InvalidInput, match="no 2 observations"):
        MeanTotals.from_sums(2, 4, 1)
    with pytest.raises(InvalidInput, match="within"):
        ProportionTotals(3, 4)


def test_too_few_observations_have_no_variance_and_no_proportion():
    with pytest.raises(InsufficientData, match="at least 2 units, has 1"):
        _ = MeanTotals(1, 3.0, 0.0).variance
    with pytest.raises(InsufficientData):
        _ = ProportionTotals().mean
