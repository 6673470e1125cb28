"""The validity table of the fixed-horizon methods, in small, and wrong methods that its gates must catch."""

import pytest
from scipy.stats import binom

from benchmarks import calibrate_fixed as calibrate


@pytest.mark.parametrize(
    "part",
    [
        calibrate.aa_rows,
        calibrate.coverage_rows,
        calibrate.family_rows,
        calibrate.planning_rows,
        calibrate.judging_rows,
        calibrate.threshold_rows,
    ],
)
def test_every_row_of_the_validity_table_holds(part):
    assert [row for row in part(full=False) if not row.passed] == []


def test_the_gate_of_ratios_catches_sessions_taken_for_independent():
    assert (
        calibrate.ratio_rejections(calibrate.as_if_independent, 300, 3) > binom.ppf(1 - 1e-6, 300, 0.05) / 300
    )


def test_the_gate_of_families_catches_uncorrected_p_values():
    rate, any_false, _ = calibrate.family_errors(tuple, 10, 0.0, 200, 40)
    assert rate > 0.25
    assert any_false > 0.95


def test_the_gate_of_plans_catches_half_the_units():
    plan, effect = calibrate.PLANS[0]
    assert calibrate.simulated_power(plan, effect, 400, 50, scale=0.5) < binom.ppf(1e-6, 400, 0.8) / 400


def test_the_gate_of_judges_catches_blind_trust():
    _, width = calibrate.judged_coverage(100, 10_000, (0.5, 0.5, 0.72), 100, 72, trust=1.0)
    assert width > 1.3


def test_the_gate_of_thresholds_catches_the_last_hours_alone():
    assert calibrate.false_alarms(calibrate.last_hours, 0.6, 3.0, 0.05, 300, 82) > 0.10


def test_the_gate_of_white_noise_catches_deviations_that_are_known():
    """With the true mean and sd the share is 0.00135, whatever n: not that of 12 points."""
    assert not calibrate.around("known", 0.00135, calibrate.false_alarm_rate(12), 20_000).passed
