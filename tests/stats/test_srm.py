"""Sample ratio mismatch: published and worked cases, sums of moving probabilities, and alarm rates."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy import stats as scipy_stats
from scipy.stats import binom

from stats import srm
from stats.errors import InsufficientData, InvalidInput
from stats.srm import ArmCounts


def test_the_sample_ratio_of_a_published_example():
    # Fabijan et al. (2019): 821,588 against 815,482 has p = 1.8e-6.
    found = srm.chi_square([ArmCounts((821_588, 815_482), (0.5, 0.5))])
    assert found.p_value == pytest.approx(1.8e-6, rel=0.02)
    three = srm.chi_square([ArmCounts((30, 50, 40), (0.3, 0.4, 0.3))])
    scipy = scipy_stats.chisquare([30, 50, 40], [36, 48, 36])
    assert (three.statistic, three.degrees_of_freedom) == (pytest.approx(scipy.statistic), 2)
    assert three.p_value == pytest.approx(scipy.pvalue)


def test_a_mismatch_is_measured_and_leaks_are_counted_apart():
    periods = [ArmCounts((5_100, 4_900, 0), (0.5, 0.5, 0.0)), ArmCounts((90, 100, 3), (0.5, 0.5, 0.0))]
    assert srm.zero_weight_leaks(periods) == (0, 0, 3)
    assert srm.deviations([ArmCounts((5_100, 4_900), (0.5, 0.5))]) == pytest.approx((0.02, -0.02))
    assert srm.chi_square(periods).degrees_of_freedom == 1
    assert srm.evalue([ArmCounts((0, 0), (0.5, 0.5))]).value == pytest.approx(1)
    broken = srm.evalue([ArmCounts((600_000, 400_000), (0.5, 0.5))])
    assert broken.rejects(0.001)
    assert srm.evalue([ArmCounts((10**9, 10**9), (0.5, 0.5))]).value < 1
    assert ArmCounts((1, 2), (0.5, 0.5)) + ArmCounts((3, 4), (0.5, 0.5)) == ArmCounts((4, 6), (0.5, 0.5))
    with pytest.raises(InsufficientData):
        srm.chi_square([ArmCounts((1, 2), (0.5, 0.5))])
    with pytest.raises(InsufficientData):
        srm.chi_square([ArmCounts((100, 0), (1.0, 0.0))])


def test_the_sample_ratio_does_not_depend_on_how_periods_are_cut():
    whole = srm.evalue([ArmCounts((300, 250), (0.5, 0.5)), ArmCounts((100, 320), (0.25, 0.75))])
    parts = [
        ArmCounts((100, 320), (0.25, 0.75)),
        ArmCounts((200, 100), (0.5, 0.5)),
        ArmCounts((100, 150), (0.5, 0.5)),
    ]
    assert srm.evalue(parts).log_value == pytest.approx(whole.log_value)


PARTS = 2**32


def summed(counts, weights):
    """Of counts and whole weights per period, shapes (periods, arms), what the sums alone say."""
    n = [sum(row) for row in counts]
    totals = [Fraction(sum(a * row[arm] for a, row in zip(n, weights, strict=True)), PARTS) for arm in (0, 1)]
    return ArmCounts.from_sums([sum(row[arm] for row in counts) for arm in (0, 1)], totals)


def test_one_assignment_at_each_of_two_splits_is_known_by_hand():
    sums = ArmCounts.from_sums((2, 0), (Fraction(8, 10), Fraction(12, 10)))
    assert sums == ArmCounts((2, 0), (0.4, 0.6))
    exact = math.log(2 / 1.2) + math.log(2 / 1.6)
    assert (2 * math.log(2 / 1.4), exact) == pytest.approx((0.713, 0.734), abs=5e-4)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(1, PARTS - 1), st.integers(0, 10**6), st.integers(0, 10**6)),
        min_size=1,
        max_size=8,
    ).filter(lambda periods: any(a + b for _, a, b in periods))
)
def test_sums_never_have_more_evidence_than_all_periods(periods):
    counts = [(a, b) for _, a, b in periods]
    weights = [(p, PARTS - p) for p, *_ in periods]
    exact = srm.evalue(
        [ArmCounts(c, (p / PARTS, q / PARTS)) for c, (p, q) in zip(counts, weights, strict=True)]
    )
    pooled = srm.evalue([summed(counts, weights)])
    slack = 1e-9 * max(1.0, abs(exact.log_value), sum(map(sum, counts)))
    assert pooled.log_value <= exact.log_value + slack


def test_nothing_is_lost_where_probabilities_never_moved():
    exact = ArmCounts((300, 700), (0.25, 0.75))
    assert ArmCounts.from_sums((300, 700), (Fraction(250), Fraction(750))) == exact
    many = ArmCounts.from_sums((10**9, 10**9), (Fraction(10**9), Fraction(10**9)))
    assert srm.evalue([many]).value < 1


def test_sums_that_cannot_be_are_refused():
    with pytest.raises(InsufficientData):
        ArmCounts.from_sums((0, 0), (0, 0))
    with pytest.raises(InvalidInput):
        ArmCounts.from_sums((1, 1), (Fraction(1), Fraction(2)))
    with pytest.raises(InvalidInput):
        ArmCounts.from_sums((1, 1), (Fraction(-1), Fraction(3)))


def adaptive_runs(runs, looks, seed):
    """A greedy rule that follows coin flips: counts (runs, looks, arms), weights of the first arm."""
    rng = np.random.default_rng(seed)
    counts, weights = np.zeros((runs, looks, 2), int), np.zeros((runs, looks))
    score = np.zeros(runs)
    for look in range(looks):
        # Reacts to the very assignments, which is what a dependence that is not allowed for would show in.
        weights[:, look] = np.where(score > 0, 0.2, 0.8)
        first = rng.binomial(50, weights[:, look])
        counts[:, look] = np.stack([first, 50 - first], axis=1)
        score += first - 25
    return counts, weights


def alarms(counts, weights, probabilities):
    """How many runs are rejected at 1 % at any of four looks."""
    running = counts.cumsum(axis=1)
    found = np.zeros(len(counts), bool)
    for run in range(len(counts)):
        shares = probabilities(weights[run])
        for look in (9, 19, 29, 39):
            first = float(shares[look])
            one = srm.evalue([ArmCounts(tuple(running[run, look].tolist()), (first, 1 - first))])
            found[run] |= one.rejects(0.01)
    return int(found.sum())


def test_a_split_that_reacts_to_itself_is_no_mismatch():
    """60 runs, 4 looks each; a correct rule has more alarms than the limit with probability < 1e-6."""
    counts, weights = adaptive_runs(60, 40, seed=20260131)
    limit = binom.isf(1e-6, 60, 0.01)

    def mean(w):
        return w.cumsum() / np.arange(1, len(w) + 1)

    assert alarms(counts, weights, mean) <= limit
    assert alarms(counts, weights, lambda w: w) > limit  # planted bug: the probabilities now in force


def test_a_lost_part_of_an_arm_is_found_although_probabilities_moved():
    counts, weights = adaptive_runs(40, 400, seed=20260132)
    counts[:, :, 0] = np.random.default_rng(20260133).binomial(counts[:, :, 0], 0.8)
    n = counts.sum(axis=2)
    first = (weights * n).sum(axis=1) / n.sum(axis=1)
    found = [
        srm.evalue([ArmCounts(tuple(one.tolist()), (p, 1 - p))]).rejects(0.01)
        for one, p in zip(counts.sum(axis=1), first.tolist(), strict=True)
    ]
    assert all(found)


def test_the_mixture_of_tilts_is_an_average_of_likelihood_ratios():
    """Its expectation over all outcomes of three draws is 1, whatever the probabilities."""
    p = np.array([[0.2, 0.8], [0.5, 0.5]])
    mean = 0.0
    for first in range(3):
        for second in range(2):
            counts = np.array([[first, 2 - first], [second, 1 - second]])
            likelihood = stats.binom.pmf(first, 2, 0.2) * stats.binom.pmf(second, 1, 0.5)
            mean += likelihood * math.exp(float(srm.log_tilt_mixture(counts, p)))
    assert mean == pytest.approx(1)
