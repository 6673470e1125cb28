"""Confidence sequences of means: worked by hand, burn-in, strata and mirror images."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stats import mixture, sequences
from stats.errors import InsufficientData
from stats.sequences import Contrast, relative_difference_sequence
from stats.totals import MeanTotals


@pytest.mark.parametrize(("side", "mirrored"), [("two-sided", "two-sided"), ("greater", "less")])
def test_relative_sequences_of_negative_means_mirror_those_of_positive_ones(side, mirrored):
    up = Contrast(10.009, 10.215, 1e-4, 1e-4, 5_000.0)
    down = Contrast(-10.009, -10.215, 1e-4, 1e-4, 5_000.0)
    of_up = relative_difference_sequence(up, alpha=0.05, tuned_to=5_000, alternative=side)
    of_down = relative_difference_sequence(down, alpha=0.05, tuned_to=5_000, alternative=mirrored)
    assert (of_down.lower, of_down.upper) == (-of_up.upper, -of_up.lower)
    assert of_up.lower < 0.0206 < of_up.upper


@given(st.floats(-3, 3))
def test_relative_sequences_are_refused_while_the_control_cannot_be_told_from_zero(errors):
    near = Contrast(errors * 0.1, 1.0, 0.01, 0.01, 5_000.0)
    with pytest.raises(InsufficientData, match="told from 0"):
        relative_difference_sequence(near, alpha=0.05, tuned_to=5_000)


SIDES = ("two-sided", "greater", "less")


def contrast(*, shift=0.0, n=1_000):
    return Contrast.of((MeanTotals(n, 1.0, float(n)), MeanTotals(n, 1.0 + shift, float(n))))


def test_a_sequence_of_a_difference_is_refused_before_its_burn_in():
    few = MeanTotals(sequences.ARM_UNITS_MIN - 1, 1.0, 5.0)
    with pytest.raises(InsufficientData, match="treatment units"):
        Contrast.of((MeanTotals(1_000, 1.0, 5.0), few))
    with pytest.raises(InsufficientData, match="no spread"):
        Contrast.of((MeanTotals(1_000, 1.0, 0.0), MeanTotals(1_000, 1.0, 0.0)))
    with pytest.raises(InsufficientData):
        Contrast.of()
    with pytest.raises(InsufficientData, match="at least 2000"):
        sequences.mean_sequence(MeanTotals(1_999, 1.0, 5.0), alpha=0.05, tuned_to=1_000)


def test_swapping_arms_flips_the_sign_and_the_width_is_known():
    a, b = MeanTotals(1_000, 1.0, 900.0), MeanTotals(400, 1.3, 500.0)
    one = sequences.difference_sequence(Contrast.of((a, b)), alpha=0.05, tuned_to=300)
    other = sequences.difference_sequence(Contrast.of((b, a)), alpha=0.05, tuned_to=300)
    assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower))
    # At the sample size that it is tuned to, 3.04 standard errors: 1.55 times the fixed interval.
    even = contrast(n=1_000)
    width = sequences.difference_sequence(even, alpha=0.05, tuned_to=500).upper
    assert width / math.sqrt(even.control_variance + even.treatment_variance) == pytest.approx(
        3.035, abs=0.01
    )


def test_the_e_value_reaches_its_bound_where_the_sequence_excludes_the_null():
    from stats import mixture

    rho = mixture.tuned(500, alpha=0.05, alternative="greater")
    found = contrast(shift=0.2)
    bound = sequences.difference_sequence(found, alpha=0.05, tuned_to=500, alternative="greater").lower
    assert found.evalue(rho=rho, alternative="greater", shift=bound).value == pytest.approx(20)
    relative = sequences.relative_difference_sequence(
        found, alpha=0.05, tuned_to=500, alternative="greater"
    ).lower
    assert found.evalue(rho=rho, alternative="greater", ratio=1 + relative).value == pytest.approx(20)


def test_a_ramp_under_a_drifting_baseline_shows_no_effect_where_there_is_none():
    # Both arms are equal in each period; the treatment grows while the baseline falls (Simpson's paradox).
    first = (MeanTotals(9_900, 2.0, 9_900.0), MeanTotals(100, 2.0, 100.0))
    second = (MeanTotals(5_000, 1.0, 5_000.0), MeanTotals(5_000, 1.0, 5_000.0))
    pooled = Contrast.of((first[0] + second[0], first[1] + second[1]))
    naive = sequences.difference_sequence(pooled, alpha=0.05, tuned_to=2_000)
    ours = sequences.difference_sequence(Contrast.of(first, second), alpha=0.05, tuned_to=2_000)
    assert naive.upper < 0
    assert ours.lower < 0 < ours.upper


def test_strata_are_weighted_by_their_effective_units():
    def stratum(n, difference):
        return MeanTotals(n, 5.0, float(n)), MeanTotals(n, 5.0 + difference, float(n))

    found = Contrast.of(stratum(100, 1.0), stratum(300, 2.0), (MeanTotals(), MeanTotals(9, 1.0, 4.0)))
    assert found.time == pytest.approx(200)
    assert found.treatment_mean - found.control_mean == pytest.approx(1.75)


def test_a_known_variance_needs_no_burn_in():
    found = sequences.normal_sequence(0.0, 0.01, alpha=0.05, tuned_to=1 / 821.19)
    assert (found.lower, found.upper) == pytest.approx((-0.36564, 0.36564), abs=1e-5)
    above = sequences.normal_sequence(0.0, 0.01, alpha=0.05, tuned_to=1 / 821.19, alternative="greater")
    assert (found.lower < above.lower, above.upper) == (True, math.inf)


def test_relative_differences_need_a_control_that_is_not_zero():
    with pytest.raises(InsufficientData, match="told from 0"):
        sequences.relative_difference_sequence(
            Contrast.of((MeanTotals(500, 0.01, 500.0), MeanTotals(500, 1.0, 500.0))), alpha=0.05, tuned_to=500
        )


@pytest.mark.parametrize(
    ("shift", "n", "harm", "safe"),
    [
        (0.5, 5_000, True, False),
        (0.0, 20_000, False, True),
        (0.03, 500, False, False),
        (0.05, 10**7, True, True),
    ],
)
def test_two_one_sided_sequences_say_worse_and_not_worse_by_the_margin(shift, n, harm, safe):
    """A relative margin of 10 %. Worse by less than the margin is both in the end."""
    found = contrast(shift=shift, n=n)
    lower, upper = (
        sequences.relative_difference_sequence(found, alpha=0.01, tuned_to=1_000, alternative=side)
        for side in ("greater", "less")
    )
    rho = mixture.tuned(1_000, alpha=0.01, alternative="greater")
    assert found.evalue(rho=rho, alternative="greater").rejects(0.01) == (lower.lower > 0) == harm
    assert found.evalue(rho=rho, alternative="less", ratio=1.1).rejects(0.01) == (upper.upper < 0.1) == safe


def test_every_side_bounds_what_it_claims():
    for alternative in SIDES:
        found = sequences.difference_sequence(contrast(), alpha=0.05, tuned_to=500, alternative=alternative)
        assert math.isinf(found.lower) == (alternative == "less")
        assert math.isinf(found.upper) == (alternative == "greater")


def test_units_and_variances_of_sequences():
    assert sequences.effective_units(1_000, 1_000) == 500
    assert sequences.effective_units(950, 50) == pytest.approx(47.5)
    assert float(sequences.raised_variance(2.0, 10_000)) == pytest.approx(2.2)
    of_control, of_treatment = sequences.shrunk_variances(1_000, 0.0, 1_000, 1_998.0)
    assert float(of_control) == pytest.approx(1_000 / 1_999)
    assert float(of_treatment) == pytest.approx(2_998 / 1_999)
