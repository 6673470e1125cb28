"""Quantiles from a sketch: its error, and intervals at one look and at every look."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.stats import binom

from stats.errors import InsufficientData, InvalidInput
from stats.quantiles import (
    QuantileSketch,
    bucket_numbers,
    quantile,
    quantile_bound,
    quantile_difference_interval,
    quantile_difference_sequence,
    quantile_interval,
    quantile_sequence,
)


def bounds(interval):
    return interval.lower, interval.upper


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


LOOKS = (300, 600, 1_000, 1_600, 2_400)


def sketch(values):
    return QuantileSketch.from_observations(values, accuracy=0.004)


def misses(method, draw, q, truth, replays, seed):
    rng, missed = np.random.default_rng(20260101 + seed), 0
    for _ in range(replays):
        x = draw(rng, LOOKS[-1])
        for n in LOOKS:
            try:
                interval = method(sketch(x[:n]), q)
            except InsufficientData:
                continue
            if not interval.lower <= truth <= interval.upper:
                missed += 1
                break
    return missed


def sequence(data, q):
    return quantile_sequence(data, q, alpha=0.05, tuned_to=1_000)


@pytest.mark.parametrize(
    ("draw", "q", "truth"),
    [
        (lambda rng, n: rng.lognormal(size=n), 0.95, math.exp(1.6448536)),
        (lambda rng, n: rng.integers(1, 6, n).astype(float), 0.5, 3.0),  # ties
        (lambda rng, n: rng.normal(size=n), 0.1, -1.2815516),
    ],
)
def test_the_sequence_holds_at_every_look(draw, q, truth):
    assert misses(sequence, draw, q, truth, 120, 1) <= binom.ppf(1 - 1e-6, 120, 0.05)


def test_the_fixed_interval_does_not_hold_at_every_look():
    def fixed(data, q):
        return quantile_interval(data, q, alpha=0.20)

    found = misses(fixed, lambda rng, n: rng.lognormal(size=n), 0.5, 1.0, 160, 2)
    assert found > binom.ppf(1 - 1e-6, 160, 0.20)  # planted bug


def test_it_is_wider_than_the_fixed_interval_and_closes_in():
    rng = np.random.default_rng(20260104)
    widths = []
    for n in (2_000, 20_000, 200_000):
        data = sketch(rng.lognormal(size=n))
        always, fixed = sequence(data, 0.9), quantile_interval(data, 0.9, alpha=0.05)
        assert always.lower <= fixed.lower < fixed.upper <= always.upper
        widths.append(always.upper - always.lower)
    assert all(later < earlier / 2 for earlier, later in pairwise(widths))


def test_equal_observations_leave_the_edges_of_their_bucket():
    found = quantile_sequence(sketch(np.full(500, 7.0)), 0.5, alpha=0.5, tuned_to=100)
    assert found.lower <= 7.0 <= found.upper
    assert found.upper / found.lower < 1.009


def test_one_bound_of_a_high_quantile_is_finite_long_before_the_other():
    data = sketch(np.full(20, 7.0))
    lower, upper = (
        quantile_bound(data, 0.95, side, alpha=0.05, tuned_to=2_000) for side in ("lower", "upper")
    )
    assert 6.9 < lower <= 7.0
    assert upper == math.inf
    assert quantile_bound(data, 0.05, "upper", alpha=0.05, tuned_to=2_000) < 7.1
    assert quantile_bound(QuantileSketch(0.01), 0.5, "lower", alpha=0.05, tuned_to=2_000) == -math.inf


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60),
    q=st.sampled_from([0.05, 0.5, 0.95]),
    side=st.sampled_from(["lower", "upper"]),
    moved=st.integers(0, 59),
    by=st.floats(0, 1e3),
)
def test_an_observation_that_moves_up_never_lowers_a_bound(values, q, side, moved, by):
    before = np.array(values)
    after = before.copy()
    after[moved % len(after)] += by
    bounds = [quantile_bound(sketch(data), q, side, alpha=0.2, tuned_to=30) for data in (before, after)]
    assert bounds[0] <= bounds[1]


def test_both_bounds_are_those_of_the_sequence():
    data = sketch(np.random.default_rng(20260106).lognormal(size=3_000))
    both = quantile_sequence(data, 0.9, alpha=0.05, tuned_to=1_000)
    for side, bound in (("lower", both.lower), ("upper", both.upper)):
        assert quantile_bound(data, 0.9, side, alpha=0.025, tuned_to=1_000) == bound


def test_a_billion_observations_are_no_trouble():
    data = QuantileSketch.from_counts(
        [(number, 10_000_000) for number in range(10_000, 10_100)], accuracy=0.001
    )
    found = sequence(data, 0.95)
    assert 0 < found.lower < found.upper


def test_too_little_says_so():
    for data in (QuantileSketch(0.01), sketch(np.arange(1.0, 30.0))):
        with pytest.raises(InsufficientData):
            sequence(data, 0.99)
    with pytest.raises(InvalidInput):
        sequence(sketch(np.arange(1.0, 30.0)), 1.0)


def test_the_difference_contains_that_of_the_fixed_method():
    rng = np.random.default_rng(20260105)
    a, b = (sketch(scale * rng.lognormal(size=4_000)) for scale in (1.0, 1.5))
    always = quantile_difference_sequence(b, a, 0.9, alpha=0.05, tuned_to=4_000)
    fixed = quantile_difference_interval(b, a, 0.9, alpha=0.05)
    assert always.lower < fixed.lower < fixed.upper < always.upper


def test_ranks_of_a_sketch():
    sketch = QuantileSketch.from_observations(np.array([1.0, 2.0, 4.0]), accuracy=1 / 3)
    lower, upper = sketch.order_statistic(2)
    assert lower < 2 <= upper == pytest.approx(2 * lower)
    for rank in (0, 4):
        with pytest.raises(InvalidInput):
            sketch.order_statistic(rank)
