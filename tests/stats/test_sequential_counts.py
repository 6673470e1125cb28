"""The sequential test of rare events."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stats import sequential_counts
from stats.errors import InsufficientData
from stats.sequential_counts import (
    EventCounts,
    difference_at,
    likeliest_ratio,
    log_ratio_mixture,
    rare,
    ratio_evalue,
    ratio_sequence,
)


def test_counts_worked_by_hand():
    assert likeliest_ratio([EventCounts(19, 3, 0.05)]) == pytest.approx(3)
    assert ratio_evalue([], expected_ratio=2).value == pytest.approx(1)
    # Two periods with their own shares: the likelihood ratio of one r, averaged over the prior.
    steps = sequential_counts._DISTANCES * math.log(2)
    weights = sequential_counts._HALF_NORMAL / sequential_counts._HALF_NORMAL.sum()
    r = np.exp(steps)

    def theta(share, ratio):
        return share * ratio / (share * ratio + 1 - share)

    ratio = np.ones_like(r)
    for control, treatment, share in ((7, 4, 0.1), (5, 9, 0.5)):
        ratio *= (theta(share, r) / share) ** treatment * ((1 - theta(share, r)) / (1 - share)) ** control
    found = log_ratio_mixture([7, 5], [4, 9], [0.1, 0.5], ratio=1, expected_ratio=2, alternative="greater")
    assert float(found) == pytest.approx(math.log((weights * ratio).sum()))


def test_the_ratio_of_rates_is_bounded_where_events_allow():
    found = ratio_sequence([EventCounts(190, 30, 0.05)], alpha=0.05, expected_ratio=2)
    assert 1 < found.lower < 3 < found.upper < 6
    none = ratio_sequence([EventCounts(50, 0, 0.5)], alpha=0.05, expected_ratio=2)
    assert none.lower == 0
    assert none.upper < 1
    only = ratio_sequence([EventCounts(0, 50, 0.5)], alpha=0.05, expected_ratio=2)
    assert only.upper == math.inf
    with pytest.raises(InsufficientData):
        ratio_sequence([EventCounts(0, 0, 0.5)], alpha=0.05, expected_ratio=2)
    big = ratio_evalue([EventCounts(10**9, 2 * 10**9, 0.5)], expected_ratio=2)
    assert math.isfinite(big.log_value)


def test_the_bound_of_a_ratio_is_where_its_evidence_is():
    periods = [EventCounts(40, 12, 0.1), EventCounts(30, 45, 0.5)]
    bound = ratio_sequence(periods, alpha=0.05, expected_ratio=2, alternative="greater").lower
    evidence = ratio_evalue(periods, ratio=bound, expected_ratio=2, alternative="greater")
    assert evidence.value == pytest.approx(20, rel=1e-6)


@pytest.mark.parametrize(
    ("period", "harm", "safe"),
    [
        (EventCounts(190, 40, 0.05), True, False),
        (EventCounts(1_900, 100, 0.05), False, True),
        (EventCounts(0, 0, 0.05), False, False),
    ],
)
def test_evidence_of_rare_events_needs_no_burn_in(period, harm, safe):
    """At 10 events to be expected 40 are too many; 100 of 100 are not twice as many; nothing says nothing."""
    worse = ratio_evalue([period], expected_ratio=2.0, alternative="greater")
    within = ratio_evalue([period], ratio=2.0, expected_ratio=2.0, alternative="less")
    assert (worse.rejects(0.01), within.rejects(0.01)) == (harm, safe)


def test_few_events_in_the_smaller_arm_are_rare():
    assert rare(84_572, 4_428, 45 / 89_000)
    assert not rare(100, 100, 0.5)
    assert rare(10_000, 10_000, 0.001)
    assert rare(10_000, 10_000, 0.999)
    assert not rare(10_000, 10_000, 0.0021)
    assert rare([100, 10**6], [10**6, 10**6], 1e-3).tolist() == [True, False]


@given(st.floats(0, 1e6), st.floats(1e-6, 0.5), st.floats(0.001, 0.999))
def test_a_difference_has_the_sign_of_its_ratio_and_both_rates_average_to_the_rate(ratio, rate, share):
    difference = difference_at(ratio, rate=rate, share=share)
    control = rate - share * difference
    assert ratio * control == pytest.approx(control + difference, rel=1e-6, abs=1e-9)
    assert np.sign(difference) == np.sign(ratio - 1)
    assert difference_at(np.inf, rate=rate, share=share) == pytest.approx(rate / share)
