"""Totals as arrays, and their modifiers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandits.forgetting import discounted, warm_start, windowed
from bandits.totals import ArmTotals
from stats.errors import InvalidInput
from stats.totals import RewardTotals


def totals(n, total, pending=None):
    n, total = np.array(n, dtype=float), np.array(total, dtype=float)
    return ArmTotals(n, total, total, np.zeros_like(n) if pending is None else np.array(pending, dtype=float))


def test_totals_are_those_of_the_arms_and_merge_by_addition():
    merged = ArmTotals.of([RewardTotals(2, 1.5, 1.25), RewardTotals()], pending=[3, 4]) + totals(
        [1, 1], [0, 1]
    )
    assert merged.n.tolist() == [3, 1]
    assert merged.sum.tolist() == [1.5, 1]
    assert merged.pending.tolist() == [3, 4]
    assert merged.mean.tolist() == [0.5, 1]
    assert merged.variance == pytest.approx([1.25 / 3 - 0.25, 0])


@pytest.mark.parametrize("n", [[-1.0, 1.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_totals_that_no_rewards_can_have_are_refused(n):
    with pytest.raises(InvalidInput):
        totals(n, [0.0, 0.0])


def test_discounting_halves_each_older_bucket_but_not_what_is_pending():
    buckets = [totals([10, 0], [4, 0], [1, 0])] * 3
    effective = discounted(buckets, factor=0.5)
    assert effective.n.tolist() == [17.5, 0]
    assert effective.sum.tolist() == [7, 0]
    assert effective.pending.tolist() == [3, 0]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.floats(0.1, 1))
def test_discounting_everything_at_once_is_discounting_bucket_by_bucket(counts, factor):
    buckets = [totals([n, 1], [n / 2, 0]) for n in counts]
    step = buckets[0]
    for bucket in buckets[1:]:
        step = step.weighted(factor) + bucket
    assert discounted(buckets, factor=factor).n == pytest.approx(step.n, rel=1e-12)


def test_a_window_keeps_its_buckets_and_all_that_is_pending():
    buckets = [totals([n, n], [1, 0], [1, 0]) for n in (10, 20, 30)]
    effective = windowed(buckets, last=2)
    assert effective.n.tolist() == [50, 50]
    assert effective.pending.tolist() == [3, 0]
    assert windowed(buckets, last=9).n.tolist() == [60, 60]


def test_a_log_starts_a_policy_with_no_more_than_its_effective_size():
    start = warm_start(totals([1_000, 10, 0], [300, 5, 0]), discount=0.5, n_max=100)
    assert start.n == pytest.approx([100, 5, 0])
    assert start.sum == pytest.approx([30, 2.5, 0])


@pytest.mark.parametrize(
    "refused",
    [
        lambda: discounted([], factor=0.5),
        lambda: discounted([totals([1], [1])], factor=0),
        lambda: windowed([totals([1], [1])], last=0),
        lambda: warm_start(totals([1], [1]), discount=1.1, n_max=1),
    ],
)
def test_what_means_nothing_is_refused(refused):
    with pytest.raises(InvalidInput):
        refused()
