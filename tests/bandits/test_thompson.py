"""Tests of `bandits.thompson`."""

import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

from bandits.allocation import Allocation
from bandits.arms import BetaArms
from bandits.best import probability_best
from bandits.thompson import thompson, top_two
from bandits.totals import ArmTotals


def totals(n, total, pending=None):
    n, total = np.array(n, dtype=float), np.array(total, dtype=float)
    return ArmTotals(n, total, total, np.zeros_like(n) if pending is None else np.array(pending, dtype=float))


def test_thompson_gives_the_shares_that_mabwiser_draws():
    """MABWiser 2.7.4, LearningPolicy.ThompsonSampling(), seed 1, after 12 of 40 and 10 of 25: 40,000 calls of
    predict() chose the first arm 7,895 times."""
    shares = thompson(BetaArms.from_totals(totals([40, 25], [12, 10])), exploration_floor=0).shares
    assert stats.binomtest(7_895, 40_000, shares[0]).pvalue > 1e-4


def test_top_two_gives_the_worked_shares():
    """Beta(2, 1) is the best of itself and two uniform ones with 1/2: the integral of 2 x^3."""
    arms = BetaArms(np.array([2.0, 1, 1]), np.ones(3))
    assert top_two(arms, exploration_floor=0).shares == pytest.approx([5 / 12, 7 / 24, 7 / 24], abs=1e-9)


def test_top_two_gives_the_shares_of_its_definition():
    """Leader and runner-up drawn literally, 100,000 times."""
    arms = BetaArms(np.array([3.0, 40, 5]), np.array([4.0, 50, 3]))
    rng, n = np.random.default_rng(20260108), 100_000
    leader, pulled = arms.draw(rng, n).argmax(axis=1), arms.draw(rng, n).argmax(axis=1)
    while (same := pulled == leader).any():
        pulled[same] = arms.draw(rng, int(same.sum())).argmax(axis=1)
    pulled = np.where(rng.random(n) < 0.5, leader, pulled)
    counts, shares = np.bincount(pulled, minlength=3), top_two(arms, exploration_floor=0).shares
    assert (np.abs(counts - n * shares) < 6 * np.sqrt(n * shares * (1 - shares))).all()
    # Planted bug: the runner-up drawn without excluding the leader is Thompson sampling.
    plain = probability_best(arms)
    assert not (np.abs(counts - n * plain) < 6 * np.sqrt(n * plain * (1 - plain))).all()


def test_top_two_never_starves_the_runner_up_however_sure_the_leader():
    shares = top_two(
        BetaArms.from_totals(totals([1e9, 1e9, 1e9], [9e8, 1e8, 1e8])), exploration_floor=0
    ).shares
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=1e-6)


shares = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(
    lambda raw: Allocation(np.array(raw) / sum(raw))
)
