"""Vector moments merge like the observations behind them, and give what their parts would."""

from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stats.errors import InsufficientData, InvalidInput
from stats.totals import CountTotals, JointTotals, MeanTotals

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
    with pytest.raises(InvalidInput, match="no exposure"):
        CountTotals(3, 0.0)
    with pytest.raises(InsufficientData):
        _ = joint([(1, 2, 3)]).covariance
    assert CountTotals(1, 2.0) + CountTotals(3, 4.0) == CountTotals(4, 6.0)
