"""Quantiles at every look, and crossings of any boundaries."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from stats.errors import InsufficientData, InvalidInput
from stats.group_sequential import GroupSequentialPlan, crossings
from stats.quantiles import (
    QuantileSketch,
    quantile_bound,
    quantile_difference_interval,
    quantile_difference_sequence,
    quantile_interval,
    quantile_sequence,
)

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


def test_crossings_of_a_plan_are_its_exits():
    plan, fractions = GroupSequentialPlan(0.05), [0.25, 0.5, 1.0]
    assert crossings(fractions, plan.boundaries(fractions), drift=2.0) == plan.exits(fractions, drift=2.0)
    one = crossings([1.0], [1.959963984540054], drift=0.0)
    assert one.lower + one.upper == pytest.approx((0.025, 0.025))
    with pytest.raises(InvalidInput, match="one bound per look"):
        crossings([0.5, 1.0], [2.0], drift=0.0)
