"""Tests of `bandits.greedy`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.allocation import Allocation, greatest
from bandits.greedy import decreasing_epsilon, epsilon_greedy
from bandits.totals import ArmTotals


def totals(n, total, pending=None):
    n, total = np.array(n, dtype=float), np.array(total, dtype=float)
    return ArmTotals(n, total, total, np.zeros_like(n) if pending is None else np.array(pending, dtype=float))


observed = st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 20)), min_size=2, max_size=6).map(
    lambda pairs: totals([n for n, _ in pairs], [n * twentieth / 20 for n, twentieth in pairs])
)


@settings(max_examples=25, deadline=None)
@given(seen=observed, random=st.randoms(use_true_random=False))
def test_decreasing_epsilon_gives_a_distribution_that_follows_the_arms(seen, random):
    shares = decreasing_epsilon(seen, gap=0.3).shares
    epsilon = min(1, 5 * len(shares) / (0.09 * max(seen.n.sum(), 1)))
    assert shares.sum() == pytest.approx(1, abs=1e-9)
    assert shares.min() >= epsilon / len(shares) * (1 - 1e-9)
    order = list(range(len(shares)))
    random.shuffle(order)
    moved = decreasing_epsilon(totals(seen.n[order], seen.sum[order]), gap=0.3).shares
    assert moved == pytest.approx(shares[order], abs=1e-9)


def test_greedy_policies_give_the_worked_shares():
    seen = totals([500, 500], [100, 150])
    assert epsilon_greedy(seen, epsilon=0.1).shares == pytest.approx([0.05, 0.95])
    assert decreasing_epsilon(seen, gap=0.2).shares == pytest.approx([0.125, 0.875])
    assert greatest(np.array([1.0, 2, 2])).tolist() == [0, 0.5, 0.5]


def test_a_decreasing_epsilon_is_that_of_another_library():
    """SMPyBandits 0.9.7, EpsilonDecreasing(3, epsilon=5 * 3 / 0.3**2), its `epsilon` at the time t."""
    for t, epsilon in {100: 1.0, 400: 0.41666666666666674, 1_000: 0.16666666666666669}.items():
        seen = totals([0.5 * t, 0.3 * t, 0.2 * t], [0.1 * t, 0.2 * t, 0.1 * t])
        expected = [epsilon / 3, 1 - 2 * epsilon / 3, epsilon / 3]
        assert decreasing_epsilon(seen, gap=0.3).shares == pytest.approx(expected, abs=1e-12)


def share_of_the_worse_arm(policy, *, pulls, runs=5):
    """Mean share after so many pulls, one at a time, of (0.9, 0.3)."""
    rng, shares = np.random.default_rng(20260111), []
    for _ in range(runs):
        n, wins = np.zeros(2), np.zeros(2)
        for _ in range(pulls - 1):
            arm = int(rng.random() < policy(totals(n, wins)).shares[1])
            n[arm] += 1
            wins[arm] += rng.random() < (0.9, 0.3)[arm]
        shares.append(policy(totals(n, wins)).shares[1])
    return np.mean(shares)


def test_a_decreasing_epsilon_pulls_the_worse_arm_as_seldom_as_is_proved():
    """Auer, Cesa-Bianchi & Fischer (2002), theorem 3, for d = 0.6 and c = 6 after 500 pulls: 0.0377.

    Planted bug: epsilon decreases with the square root of time.
    """
    c, d, n = 6.0, 0.6, 500
    x = 2 * c / ((n - 1) * d**2 * np.exp(0.5))
    bound = c / (d**2 * n) + 2 * c / d**2 * np.log(1 / x) * x ** (c / (5 * d**2))
    bound += 4 * np.e / d**2 * x ** (c / 2)

    def slow(seen):
        return epsilon_greedy(seen, epsilon=min(1.0, np.sqrt(2 * c / d**2 / max(seen.n.sum(), 1))))

    assert share_of_the_worse_arm(lambda seen: decreasing_epsilon(seen, c=c, gap=d), pulls=n) <= bound
    assert share_of_the_worse_arm(slow, pulls=n) > bound


shares = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(
    lambda raw: Allocation(np.array(raw) / sum(raw))
)
