"""The validity table of the fixed-horizon methods, in small, and wrong methods that its gates must catch."""

from functools import partial

import pytest
from scipy.stats import binom, kstest

from benchmarks import calibrate_fixed as calibrate
from benchmarks.validity import error_limit

limit = partial(error_limit, false_alarm=1e-6)


@pytest.mark.parametrize("part", calibrate.PARTS.values(), ids=calibrate.PARTS)
def test_every_row_of_the_validity_table_holds(part):
    assert [row for row in part(full=False) if not row.passed] == []


def test_the_gate_of_ratios_catches_sessions_taken_for_independent():
    assert (
        calibrate.ratio_rejections(calibrate.as_if_independent, 300, 3) > binom.ppf(1 - 1e-6, 300, 0.05) / 300
    )


@pytest.mark.parametrize(
    "coverage",
    [
        partial(calibrate.adjusted_coverage, calibrate.cuped),
        partial(calibrate.adjusted_coverage, calibrate.regressed),
        calibrate.quantile_coverage,
        calibrate.score_coverage,
    ],
)
def test_the_gate_of_coverage_catches_units_that_count_three_times(coverage):
    assert coverage(200, 33, times=3) < calibrate.least_coverage(200) - 0.005


def test_the_gate_of_families_catches_uncorrected_p_values():
    rate, any_false, _ = calibrate.family_errors(lambda _: 0.05, 10, 0.0, 200, 40)
    assert rate.value > 0.25
    assert any_false.value > 0.95


def test_the_gate_of_plans_catches_half_the_units():
    plan, effect = calibrate.PLANS[0]
    assert calibrate.simulated_power(plan, effect, 400, 50, scale=0.5) < binom.ppf(1e-6, 400, 0.8) / 400


def test_the_gate_of_judges_catches_blind_trust():
    _, width = calibrate.judged_coverage(100, 10_000, (0.5, 0.5, 0.72), 100, 72, trust=1.0)
    assert width.value > 1.3


def test_the_gate_of_judges_catches_scores_taken_for_labels():
    assert calibrate.judge_alone_coverage(100, 10_000, (0.90, 0.50, 0.72), 20, 74) < 0.5


def test_the_gate_of_thresholds_catches_the_last_hours_alone():
    assert calibrate.false_alarms(calibrate.last_hours, 0.6, 3.0, 0.01, 100, 82).value > 2 * 0.01


def test_the_gate_of_white_noise_catches_deviations_that_are_known():
    """With the true mean and sd the share is 0.00135, whatever n: not that of 12 points."""
    assert not calibrate.around("known", 0.00135, 0.007455, 20_000).passed


def test_p_values_of_two_equal_arms_are_uniform_and_those_of_heavy_tails_larger():
    def p_values(draw, seed):
        return calibrate.mean_p_values(draw, 200, 1_500, seed)

    normal = p_values(lambda rng, n: rng.normal(size=n), 21)
    assert kstest(normal, "uniform").pvalue > 1e-6
    heavy = p_values(lambda rng, n: rng.lognormal(sigma=1.5, size=n), 22)
    assert (heavy < 0.05).mean() < 0.05
    assert kstest(normal**1.3, "uniform", alternative="greater").pvalue < 1e-6  # planted bug
