"""Mergeable totals: merging equals pooling, and no digits are lost."""

from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stats.errors import InsufficientData, InvalidInput
from stats.totals import JointTotals, MeanTotals, ProportionTotals, RewardTotals

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


units = st.lists(st.tuples(*[st.integers(-1000, 1000)] * 3), max_size=12)


def joint(rows):
    exact = [[Fraction(value) for value in row] for row in rows]
    sums = [sum((row[i] for row in exact), Fraction(0)) for i in range(3)]
    products = [sum((row[i] * row[j] for row in exact), Fraction(0)) for i in range(3) for j in range(i + 1)]
    return JointTotals.from_sums(len(rows), sums, products)


def close(first, second):
    return (
        first.n == second.n
        and np.allclose(first.mean, second.mean, rtol=1e-12, atol=1e-9)
        and np.allclose(first.comoments, second.comoments, rtol=1e-9, atol=1e-6)
    )


@given(units, units)
def test_merging_equals_pooling_and_the_observations_themselves(first, second):
    pooled = joint(first + second)
    assert close(joint(first) + joint(second), pooled)
    assert close(JointTotals.from_observations(np.array(first + second, dtype=float).reshape(-1, 3)), pooled)


@given(units.filter(len), st.tuples(*[st.integers(-5, 5)] * 3))
def test_a_combination_has_the_totals_of_combined_observations(rows, weights):
    combined = joint(rows).combine(weights)
    direct = MeanTotals.from_observations(np.array(rows, dtype=float) @ np.array(weights, dtype=float))
    assert combined.mean == pytest.approx(direct.mean, abs=1e-8)
    assert combined.m2 == pytest.approx(direct.m2, rel=1e-9, abs=1e-5)


def test_the_worked_cases_hold():
    totals = JointTotals.from_observations(np.array([[0.0, 0.0], [2.0, 4.0]]))
    assert totals == JointTotals(2, (1.0, 2.0), (2.0, 4.0, 8.0))
    assert totals.combine((-1, 1)) == MeanTotals(2, 1.0, 2.0)
    assert totals.value(1) == MeanTotals(2, 2.0, 8.0)
    assert totals.select(1, 0) == JointTotals(2, (2.0, 1.0), (8.0, 4.0, 2.0))


def test_totals_are_values_that_hash_and_travel():
    totals = joint([(1, 2, 3), (4, 5, 7)])
    assert {totals: 1}[joint([(4, 5, 7), (1, 2, 3)])] == 1
    assert msgspec.json.decode(msgspec.json.encode(totals), type=JointTotals) == totals


def test_sums_of_a_billion_units_keep_their_digits():
    n = 10**9
    totals = JointTotals.from_sums(n, [n * 10**9, n], [n * 10**18 + n, n * 10**9, n])
    assert totals.covariance[0, 0] == pytest.approx(1.0, rel=1e-8)
    assert totals.covariance[1, 0] == 0


def test_what_are_no_totals_is_refused():
    with pytest.raises(InvalidInput, match="co-moments"):
        JointTotals(2, (1.0, 2.0), (1.0,))
    with pytest.raises(InvalidInput, match="do not merge"):
        JointTotals.none(1) + JointTotals.none(2)
    with pytest.raises(InvalidInput):
        JointTotals(2, (1.0,), (-1.0,))
    with pytest.raises(InvalidInput):
        JointTotals(2, (float("nan"),), (1.0,))
    with pytest.raises(InsufficientData):
        _ = joint([(1, 2, 3)]).covariance
