"""False verdicts in small: what the gates let pass, and wrong rules that they must catch."""

import pytest

from benchmarks import calibrate_verdicts as calibrate
from benchmarks.validity import error_limit


@pytest.mark.parametrize("part", calibrate.PARTS.values(), ids=calibrate.PARTS)
def test_every_row_holds(part):
    assert [row for row in part(full=False) if not row.passed] == []


def test_the_gate_of_rare_events_catches_a_normal_approximation():
    found = calibrate.rare_verdicts(
        0.0001, 0.05, units=1_000_000, runs=200, seed=1, rule=calibrate.by_sequence
    )
    assert found.value > error_limit(200, 0.05)


def test_the_gate_of_segments_catches_variances_taken_as_known():
    for rate, sizes in ((0.02, (50, 1_000)), (None, (2, 300))):
        found = calibrate.interactions(calibrate.with_own_variances, rate=rate, sizes=sizes, runs=60, seed=2)
        assert found.value > error_limit(60, 0.05)


def test_the_gate_of_plans_catches_one_boundary_for_all_readings():
    found = calibrate.readings("pocock", runs=4_000, seed=3, one_boundary=True)
    assert found.value > 0.066
