"""What two-sample methods of `stats` have in common, asked of each of them.

They mirror when arms are swapped, do not care how totals were merged, and move with the unit of measurement.
They are wider where alpha is smaller, and a test decides as its interval does.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stats import mixture, sequences
from stats.interval import Interval
from tests.stats.methods import MOMENTS, ROWS, SHIFT, TWO_SAMPLE, arms, contrast

ALL = pytest.mark.parametrize("method", TWO_SAMPLE.values(), ids=TWO_SAMPLE)


def close(first: Interval, second: Interval, error: float = 1e-6) -> bool:
    return all(
        math.isclose(a, b, rel_tol=error, abs_tol=error)
        for a, b in ((first.lower, second.lower), (first.upper, second.upper))
    )


@ALL
@pytest.mark.parametrize("sizes", [(3_000, 3_000), (600, 5_400)])
def test_swapping_arms_mirrors_the_interval(method, sizes):
    treatment, control = arms(method, *sizes)
    found, mirrored = method.interval(treatment, control, 0.05), method.interval(control, treatment, 0.05)
    assert close(found, Interval(-mirrored.upper, -mirrored.lower))
    assert found.lower < found.upper


@ALL
@settings(max_examples=5, deadline=None)
@given(cut=st.integers(1, 2_999))
def test_merged_totals_say_what_all_the_observations_say(method, cut):
    values = ROWS[0, :3_000] + SHIFT
    merged = method.total(values[:cut]) + method.total(values[cut:])
    other = method.total(ROWS[1, :3_000])
    assert close(method.interval(merged, other, 0.05), method.interval(method.total(values), other, 0.05))


@ALL
def test_a_smaller_alpha_is_wider(method):
    treatment, control = arms(method, 3_000, 3_000)
    found = [method.interval(treatment, control, alpha) for alpha in (0.5, 0.2, 0.05, 1e-3, 1e-6, 1e-12)]
    for narrow, wide in itertools.pairwise(found):
        assert wide.lower <= narrow.lower
        assert narrow.upper <= wide.upper
    assert found[-1].lower < found[0].lower
    assert found[0].upper < found[-1].upper


@ALL
def test_an_equal_arm_is_never_told_from_itself(method):
    treatment, _ = arms(method, 3_000, 3_000)
    found = method.interval(treatment, treatment, 0.05)
    assert found.lower < 0 < found.upper


@pytest.mark.parametrize("method", [m for m in TWO_SAMPLE.values() if m.scales])
@pytest.mark.parametrize("factor", [1e-9, 7.0, 1e9])
def test_another_unit_of_measurement_is_the_same_interval_in_it(method, factor):
    treatment, control = ROWS[0, :3_000] + SHIFT, ROWS[1, :2_000]
    plain = method.interval(method.total(treatment), method.total(control), 0.05)
    scaled = method.interval(method.total(factor * treatment), method.total(factor * control), 0.05)
    assert close(Interval(scaled.lower / factor, scaled.upper / factor), plain)


@pytest.mark.parametrize("method", [m for m in TWO_SAMPLE.values() if m.shifts])
def test_what_is_added_to_everybody_changes_nothing(method):
    treatment, control = ROWS[0, :3_000] + SHIFT, ROWS[1, :2_000]
    plain = method.interval(method.total(treatment), method.total(control), 0.05)
    moved = method.interval(method.total(treatment + 1e6), method.total(control + 1e6), 0.05)
    assert close(moved, plain)


@pytest.mark.parametrize(
    "method", [m for m in TWO_SAMPLE.values() if m.test], ids=[k for k, m in TWO_SAMPLE.items() if m.test]
)
@settings(max_examples=10, deadline=None)
@given(shift=st.floats(-0.5, 0.5), size=st.integers(300, 3_000))
def test_a_test_decides_as_its_interval_excludes_zero(method, shift, size):
    treatment, control = method.total(ROWS[0, :size] + shift), method.total(ROWS[1, :1_500])
    p_value = method.test(treatment, control)
    for alpha in (0.01, 0.05, 0.3):
        if abs(p_value - alpha) > 1e-6:
            found = method.interval(treatment, control, alpha)
            assert (p_value < alpha) == (found.lower > 0 or found.upper < 0)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_an_e_value_decides_as_its_sequence_excludes_the_null(alternative):
    for shift in np.linspace(-0.4, 0.4, 33):
        found = contrast(MOMENTS(ROWS[0] + shift), MOMENTS(ROWS[1]))
        rho = mixture.tuned(500, alpha=0.05, alternative=alternative)
        interval = sequences.difference_sequence(found, alpha=0.05, tuned_to=500, alternative=alternative)
        excluded = interval.lower > 0 or interval.upper < 0
        assert found.evalue(rho=rho, alternative=alternative).rejects(0.05) == excluded
