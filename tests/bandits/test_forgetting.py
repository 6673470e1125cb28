"""Tests of `bandits.forgetting`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandits.arms import BetaArms
from bandits.forgetting import discounted, warm_start, windowed
from bandits.totals import ArmTotals
from bandits.ucb import kl_ucb_index, ucb1_index


def totals(n, total, pending=None):
    n, total = np.array(n, dtype=float), np.array(total, dtype=float)
    return ArmTotals(n, total, total, np.zeros_like(n) if pending is None else np.array(pending, dtype=float))


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


def of_pulls(pulls, rewards):
    """A bucket for each pull of two arms."""
    return [
        totals(np.eye(2)[arm], reward * np.eye(2)[arm]) for arm, reward in zip(pulls, rewards, strict=True)
    ]


PULLS = of_pulls([0, 1, 0, 1, 0, 0, 1, 1, 1, 0], [1, 0, 0, 1, 1, 1, 0, 1, 1, 0])


def test_discounted_posteriors_are_those_of_another_library():
    """SMPyBandits 0.9.7, DiscountedBeta(gamma=0.9): updated by the pulls of its arm, discounted at others."""
    arms = BetaArms.from_totals(discounted(PULLS, factor=0.9))
    assert arms.alpha == pytest.approx([1 + 1.6340104890000002, 1 + 2.2414410000000005], abs=1e-12)
    assert arms.beta == pytest.approx([1 + 1.4782969000000001, 1 + 1.1594672100000003], abs=1e-12)


def test_indices_in_a_window_are_those_of_another_library():
    """SMPyBandits 0.9.7, SWUCB(tau=7, alpha=2) and SWklUCB(tau=7), whose search stops at 1e-4."""
    seen = windowed(PULLS, last=7)
    assert ucb1_index(seen) == pytest.approx([1.805645785309121, 1.7363848511243756], abs=1e-12)
    assert kl_ucb_index(seen) == pytest.approx([0.9779052734375, 0.984222412109375], abs=1e-4)


def test_a_log_starts_a_policy_with_no_more_than_its_effective_size():
    start = warm_start(totals([1_000, 10, 0], [300, 5, 0]), discount=0.5, n_max=100)
    assert start.n == pytest.approx([100, 5, 0])
    assert start.sum == pytest.approx([30, 2.5, 0])
