"""Differences of arms that a policy drew at the same time, from logged propensities."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stats import concurrent, sequences
from stats.concurrent import ConcurrentArms, contrast, drawn_alike, event_sequence, one_look
from stats.errors import InsufficientData, InvalidInput
from stats.interval import Interval
from stats.totals import JointTotals, MeanTotals
from tests.stats.methods import ratio_difference

SEED = 20261201
NONE = JointTotals.none(2)


def rows(values, propensities):
    pairs = np.stack((values, 1 / np.asarray(propensities)), axis=1)
    return JointTotals.from_observations(pairs) if len(values) else NONE


def experiment(rng, shares, levels, *, effect=0.0):
    """Strata of two arms, and all (share, arm, value) of them."""
    drawn = rng.random(len(shares)) < shares
    values = levels + effect * drawn + rng.normal(size=len(shares))
    numbers = concurrent.strata_of_shares(shares)
    return [
        ConcurrentArms(
            rows(values[chosen & ~drawn], 1 - shares[chosen & ~drawn]),
            rows(values[chosen & drawn], shares[chosen & drawn]),
        )
        for chosen in (numbers == number for number in np.unique(numbers))
    ]


def test_one_stratum_worked_by_hand():
    control = drawn_alike(MeanTotals(200, 0.0, 200.0), propensity=0.5)
    treatment = drawn_alike(MeanTotals(200, 1.0, 200.0), propensity=0.5)
    found = contrast([ConcurrentArms(control, treatment)])
    assert found.time == pytest.approx(100)
    assert found.treatment_mean - found.control_mean == pytest.approx(1)
    assert found.control_variance + found.treatment_variance == pytest.approx(1.25 / 100)
    once = one_look([ConcurrentArms(control, treatment)])
    assert (once.value, once.standard_error) == (pytest.approx(1), pytest.approx(math.sqrt(1.25 / 100)))


def test_two_strata_of_different_shares_worked_by_hand():
    """Each stratum counts by its assignments times e (1 - e): 400 / 4 = 100 and 1,000 * 0.09 = 90."""
    half = ConcurrentArms(
        drawn_alike(MeanTotals(200, 1.0, 200.0), propensity=0.5),
        drawn_alike(MeanTotals(200, 3.0, 200.0), propensity=0.5),
    )
    tenth = ConcurrentArms(
        drawn_alike(MeanTotals(900, 9.0, 900.0), propensity=0.9),
        drawn_alike(MeanTotals(100, 10.0, 100.0), propensity=0.1),
    )
    found = contrast([half, tenth])
    assert found.time == pytest.approx(190)
    assert found.treatment_mean - found.control_mean == pytest.approx((100 * 2 + 90 * 1) / 190)
    assert one_look([half, tenth]).value == pytest.approx((200 * 2 + 300 * 1) / 500)


def test_further_arms_change_shares_not_the_difference():
    """With shares 1/2, 1/4 and 1/4 the pair has p_c p_t / (p_c + p_t) = 1/6 of 400 assignments."""
    control = drawn_alike(MeanTotals(200, 1.0, 200.0), propensity=0.5)
    treatment = drawn_alike(MeanTotals(100, 2.0, 100.0), propensity=0.25)
    found = contrast([ConcurrentArms(control, treatment, others=100)])
    assert found.time == pytest.approx(400 / 6)
    assert found.treatment_mean - found.control_mean == pytest.approx(1)


def test_the_estimate_does_not_follow_a_drift_that_averages_do_follow():
    rng = np.random.default_rng(SEED)
    shares = np.linspace(0.05, 0.95, 40_000)
    found = contrast(experiment(rng, shares, 10 * shares, effect=0.5))
    error = math.sqrt(found.control_variance + found.treatment_variance)
    assert abs(found.treatment_mean - found.control_mean - 0.5) < 4 * error
    drawn = rng.random(len(shares)) < shares
    averages = (10 * shares)[drawn].mean() - (10 * shares)[~drawn].mean()
    assert averages > 50 * error  # planted fault: as if both arms had met the same levels


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(0, 900), seed=st.integers(0, 5))
def test_merged_strata_say_what_all_units_say(cut, seed):
    rng = np.random.default_rng(seed)
    values, w = rng.normal(size=1_200), rng.uniform(0.4, 0.5, 1_200)
    whole = [rows(values[:600], w[:600]), rows(values[600:], w[600:])]
    cut = min(cut, 599)
    merged = [
        rows(values[start : start + cut], w[start : start + cut])
        + rows(values[start + cut : start + 600], w[start + cut : start + 600])
        for start in (0, 600)
    ]
    first, second = contrast([ConcurrentArms(*whole)]), contrast([ConcurrentArms(*merged)])
    for name in first.__struct_fields__:
        assert getattr(first, name) == pytest.approx(getattr(second, name), rel=1e-9, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9), factor=st.sampled_from([1e-9, -3.0, 1e9]), shift=st.sampled_from([0.0, 5.0]))
def test_swapped_labels_and_other_units_of_measurement_say_the_same(seed, factor, shift):
    rng = np.random.default_rng(seed)
    shares = rng.choice([0.05, 0.3, 0.5, 0.9], 3_000)
    strata = experiment(rng, shares, np.zeros(3_000), effect=0.2)
    swapped = [ConcurrentArms(one.treatment, one.control) for one in strata]

    def scaled(totals):
        if not totals.n:
            return totals
        (y, w), (yy, wy, ww) = totals.mean, totals.comoments
        return JointTotals(totals.n, (factor * (y + shift), w), (factor**2 * yy, factor * wy, ww))

    plain, mirrored = contrast(strata), contrast(swapped)
    assert plain.treatment_mean == pytest.approx(mirrored.control_mean)
    assert plain.treatment_variance == pytest.approx(mirrored.control_variance)
    found = contrast([ConcurrentArms(scaled(one.control), scaled(one.treatment)) for one in strata])
    assert found.control_mean == pytest.approx(factor * (plain.control_mean + shift))
    assert found.control_variance == pytest.approx(factor**2 * plain.control_variance)
    assert found.time == pytest.approx(plain.time)


def test_too_few_units_or_no_spread_is_no_answer():
    few = drawn_alike(MeanTotals(99, 0.5, 20.0), propensity=0.5)
    enough = drawn_alike(MeanTotals(100, 0.5, 20.0), propensity=0.5)
    constant = drawn_alike(MeanTotals(100, 0.5, 0.0), propensity=0.5)
    for strata in (
        [],
        [ConcurrentArms(few, enough)],
        [ConcurrentArms(enough, NONE)],
        [ConcurrentArms(constant, constant)],
    ):
        for ask in (contrast, one_look):
            with pytest.raises(InsufficientData):
                ask(strata)
    apart = [ConcurrentArms(enough, NONE, others=5), ConcurrentArms(NONE, enough, others=5)]
    with pytest.raises(InsufficientData, match="at the same time"):
        contrast(apart)


def test_a_variant_that_took_everything_says_nothing():
    """At a share of 1 there is nothing to compare with, so only the other stratum counts."""
    certain = ConcurrentArms(NONE, drawn_alike(MeanTotals(5_000, 9.0, 5_000.0), propensity=1.0))
    half = ConcurrentArms(
        drawn_alike(MeanTotals(200, 1.0, 200.0), propensity=0.5),
        drawn_alike(MeanTotals(200, 1.0, 200.0), propensity=0.5),
    )
    found = contrast([half, certain])
    assert found.time == pytest.approx(100)
    assert found.treatment_mean == pytest.approx(found.control_mean)


def test_impossible_totals_are_refused():
    with pytest.raises(InvalidInput):
        ConcurrentArms(JointTotals(3, (1.0, 0.5), (0.0, 0.0, 0.0)), NONE)
    with pytest.raises(InvalidInput):
        ConcurrentArms(JointTotals.none(3), NONE)
    beyond = drawn_alike(MeanTotals(10, 2.0, 0.0), propensity=0.5)
    with pytest.raises(InvalidInput):
        event_sequence([ConcurrentArms(beyond, beyond)], alpha=0.05, tuned_to=100)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidInput):
            concurrent.strata_of_shares([0.5, share])
    with pytest.raises(InvalidInput):
        concurrent.strata_of_ages([1.0, math.inf])


def test_strata_are_symmetric_and_bounded():
    shares = np.array([0.0, 1e-12, 0.003, 0.1, 0.4, 0.5])
    assert (concurrent.strata_of_shares(shares) + concurrent.strata_of_shares(1 - shares) == 64).all()
    assert concurrent.strata_of_shares(0.1) == 23
    ages = concurrent.strata_of_ages([-5, 0, 1, 2, 86_400, 3e7, 1e30])
    assert ages.tolist() == [0, 0, 0, 4, 65, 99, 127]


def test_events_are_judged_from_the_first_one_on():
    def successes(n, of):
        return drawn_alike(MeanTotals.from_sums(of, n, n), propensity=0.5)

    assert event_sequence([], alpha=0.05, tuned_to=500) == Interval(-1, 1)
    few = event_sequence([ConcurrentArms(successes(1, 1_000), successes(0, 1_000))], alpha=0.05, tuned_to=500)
    assert few.lower < -0.001 < 0.001 < few.upper
    many = event_sequence(
        [ConcurrentArms(successes(60, 1_000), successes(5, 1_000))], alpha=0.05, tuned_to=500
    )
    assert many.lower < -0.055 < many.upper < 0


def test_the_exact_sequence_is_wider_than_the_normal_one():
    rng = np.random.default_rng(SEED + 1)
    for share, rate in ((0.5, 0.3), (0.05, 0.3), (0.9, 0.02)):
        n_t = round(20_000 * share)
        arms = [
            drawn_alike(MeanTotals.from_sums(n, hits, hits), propensity=p)
            for n, p in ((20_000 - n_t, 1 - share), (n_t, share))
            for hits in (int(rng.binomial(n, rate)),)
        ]
        exact = event_sequence([ConcurrentArms(*arms)], alpha=0.05, tuned_to=1_000)
        normal = sequences.difference_sequence(contrast([ConcurrentArms(*arms)]), alpha=0.05, tuned_to=1_000)
        assert exact.lower < normal.lower < normal.upper < exact.upper
        assert exact.upper - exact.lower < 1.5 * (normal.upper - normal.lower)


def test_a_ratio_is_compared_as_by_the_delta_method():
    rng = np.random.default_rng(SEED + 2)
    arms = []
    for rate in (0.3, 0.32):
        sessions = rng.poisson(1.5, 5_000) + 1
        arms.append(np.stack((rng.binomial(sessions, rate), sessions, np.full(5_000, 2.0)), axis=1))
    control, treatment = (JointTotals.from_observations(arm.astype(float)) for arm in arms)
    strata = concurrent.linearised([(control, treatment, 0), (JointTotals.none(3), JointTotals.none(3), 0)])
    found = contrast(strata)
    expected = ratio_difference(treatment.select(0, 1), control.select(0, 1))
    assert found.treatment_mean - found.control_mean == pytest.approx(expected.value, rel=0.02)
    variance = found.control_variance + found.treatment_variance
    assert math.sqrt(variance) == pytest.approx(expected.standard_error, rel=0.02)
    with pytest.raises(InsufficientData):
        concurrent.linearised([])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2**16)), min_size=1, max_size=6))
def test_merged_totals_are_their_sum(parts):
    totals = [
        JointTotals.from_observations(np.random.default_rng(seed).normal(size=(n, 2)))
        if n
        else JointTotals.none(2)
        for n, seed in parts
    ]
    merged, added = JointTotals.merged(totals), sum(totals[1:], totals[0])
    assert merged.n == added.n
    assert merged.mean == pytest.approx(added.mean, abs=1e-12)
    assert merged.comoments == pytest.approx(added.comoments, abs=1e-9)
    with pytest.raises(InvalidInput, match="one dimension"):
        JointTotals.merged([JointTotals.none(2), JointTotals.none(3)])
