"""Tests of `bandits.drift`."""

import hypothesis.strategies
import numpy as np
import pytest
from scipy import stats

from bandits.drift import detect
from bandits.totals import ArmTotals


def totals(n, total, squares=None):
    n, total = np.array(n, dtype=float), np.array(total, dtype=float)
    return ArmTotals(n, total, total if squares is None else np.array(squares, dtype=float), np.zeros_like(n))


rates = hypothesis.strategies.floats(0, 1)


def test_the_worked_drift_holds():
    found = detect([totals([10], [0]), totals([10], [10])], alpha=0.01)
    assert found.changed.any()
    assert found.log_evidence[0] == pytest.approx(9.6975, abs=1e-4)
    assert found.since.tolist() == [1]


def split_halves(buckets):
    """A planted bug: the two halves so far compared by a z-test at 5 %."""
    half = len(buckets) // 2
    first, second = (sum(part[1:], part[0]) for part in (buckets[:half], buckets[half:]))
    spread = first.variance / first.n + second.variance / second.n
    return bool((np.abs(first.mean - second.mean) > 1.96 * np.sqrt(spread)).any())


def alarms(rule, after, *, runs=80, buckets=16):
    """In how many runs the rule ever calls a change, looking after every bucket; two arms, one may change."""
    rng, found = np.random.default_rng(20260122), 0
    for _ in range(runs):
        rates = np.array([[0.3, 0.2]] * (buckets // 2) + [[after, 0.2]] * (buckets - buckets // 2))
        wins = rng.binomial(50, rates)
        seen = [totals([50, 50], row) for row in wins]
        found += any(rule(seen[:n]) for n in range(2, buckets + 1))
    return found


def test_drift_is_seldom_called_without_change_and_always_with_it():
    """At most alpha of 80 runs, 15 looks each; a correct rule fails with probability below 1e-6."""
    limit = stats.binom.ppf(1 - 1e-6, 80, 0.05)

    def rule(buckets):
        return detect(buckets, alpha=0.05).changed.any()

    assert alarms(rule, 0.3) <= limit
    assert alarms(split_halves, 0.3) > limit
    assert alarms(rule, 0.6, runs=10) == 10
