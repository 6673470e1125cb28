"""Error rates by simulation, at a size for every day; `make calibrate` runs them in full.

A correct method fails a gate with probability below 1e-6; a planted bug must fail it, or the gate sees none.
"""

from functools import partial

import numpy as np
import pytest

from benchmarks import calibrate_bandits as bandits
from benchmarks import calibrate_counts as counts
from benchmarks import calibrate_sequential as calibrate
from benchmarks.validity import around, error_limit
from stats import aa, sequences
from stats.errors import InsufficientData
from stats.sequences import Contrast
from stats.sprt import WaldLimits
from stats.totals import MeanTotals

limit = partial(error_limit, false_alarm=1e-6)


@pytest.mark.parametrize("stream", ["normal", "0.05", "0.005", "lognormal"])
@pytest.mark.parametrize("share", [0.5, 0.05])
def test_the_difference_sequence_keeps_alpha_at_every_look(stream, share):
    misses = calibrate.two_arm_misses(stream, share=share, units=10_000, runs=150, tuned_to=1_000, seed=1)
    assert misses <= limit(150, 0.05)


def test_what_the_burn_in_and_the_shrinkage_are_for():
    wrong = partial(calibrate.two_arm_misses, units=10_000, runs=150, tuned_to=1_000, seed=1)
    assert wrong("0.005", share=0.05, radius=calibrate.plug_in_radius) > limit(150, 0.05)  # planted bug
    assert wrong("normal", share=0.5, radius=calibrate.fixed_radius) > limit(150, 0.05)  # planted bug


@pytest.mark.parametrize("adjusted", [True, False])
def test_it_covers_effects_and_adjusted_values_too(adjusted):
    treatment = None if adjusted else "0.01"
    stream = "lognormal" if adjusted else "0.005"
    misses = calibrate.two_arm_misses(
        stream,
        share=0.05,
        units=10_000,
        runs=100,
        tuned_to=1_000,
        seed=2,
        treatment_stream=treatment,
        adjusted=adjusted,
    )
    assert misses <= limit(100, 0.05)


def test_the_simulated_radius_is_that_of_the_records():
    control, treatment = MeanTotals(1_900, 0.4, 300.0), MeanTotals(150, 0.3, 20.0)
    radius = calibrate.product_radius(1_900.0, 300.0, 150.0, 20.0, tuned_to=500)
    found = sequences.difference_sequence(Contrast.of((control, treatment)), alpha=0.05, tuned_to=500)
    assert found.upper - found.lower == pytest.approx(2 * float(radius))


@pytest.mark.parametrize("stream", ["0.005", "lognormal", "t5"])
def test_the_sequence_of_a_mean_keeps_alpha_and_needs_its_burn_in(stream):
    run = partial(calibrate.mean_misses, stream, units=6_000, runs=300, tuned_to=2_000, seed=3)
    assert run() <= limit(300, 0.05)
    if stream != "t5":
        assert run(start=100) > limit(300, 0.05)  # planted bug


@pytest.mark.parametrize("p", [0.5, 0.05, 0.005])
def test_the_exact_sequence_keeps_alpha_from_the_first_unit(p):
    assert calibrate.bounded_misses(p, units=5_000, runs=400, tuned_to=500, seed=4) <= limit(400, 0.05)


def test_bernstein_and_betting_keep_alpha():
    bernstein, betting = calibrate.bernstein_misses(batches=10, runs=60, seed=5)
    assert bernstein <= limit(60, 0.05)
    assert betting <= limit(60, 0.05)


@pytest.mark.parametrize("name", calibrate.E_PROCESSES)
def test_an_e_process_is_at_most_one_on_average_and_seldom_large(name):
    means, ever = calibrate.e_process(calibrate.E_PROCESSES[name], runs=2_000, seed=6)
    assert all(mean <= 1 + 5 * se for mean, se in means.values())
    assert ever <= limit(2_000, 0.05)


def test_the_gates_of_e_processes_catch_a_likelihood_ratio_at_its_maximum():
    means, ever = calibrate.e_process(calibrate.likelihood_ratio_at_its_maximum, runs=2_000, seed=6)
    assert any(mean > 1 + 3 * se for mean, se in means.values())
    assert ever > limit(2_000, 0.05)


def test_an_always_valid_p_never_rises_where_the_inverse_of_the_e_value_does():
    assert calibrate.rising_p_values(runs=10, seed=7) == 0
    assert calibrate.rising_p_values(runs=10, seed=7, keep=False) > 100  # planted bug


def test_the_lead_of_two_roots_is_reached_as_often_as_reflection_says():
    gate = partial(around, "a lead", rate=0.0456, runs=2_000)
    assert gate(calibrate.lead_of_two_roots(900, runs=2_000, seed=8)).passed
    assert not gate(calibrate.lead_of_two_roots(900, runs=2_000, seed=8, factor=1.6)).passed  # planted bug


def test_the_binomial_sprt_keeps_its_errors_and_swapped_ones_do_not():
    null, other = (calibrate.binomial_sprt(p, runs=2_000, seed=9) for p in calibrate.EXACT_SPRT)
    assert null.reject <= limit(2_000, 0.05)
    assert other.accept <= limit(2_000, 0.20)
    swapped = calibrate.binomial_sprt(0.10, runs=2_000, seed=9, limits=WaldLimits(0.20, 0.05))
    assert swapped.reject > limit(2_000, 0.05)  # planted bug


def test_methods_with_a_horizon_keep_alpha_and_have_their_power_in_order():
    null = calibrate.horizon_methods(0.0, runs=400, seed=7, steps=2_000)
    effect = calibrate.horizon_methods(2.8016, runs=400, seed=8, steps=2_000)
    for name in calibrate.TARGETS:
        assert null[name].power <= limit(400, 0.05), name
        assert effect[name].power >= calibrate.TARGETS[name][0] - 0.12, name
    assert null["naive peeking (planted)"].power > limit(400, 0.05)  # planted bug
    order = ["GST O'Brien-Fleming K=10", "GST Pocock K=10", "confidence sequence"]
    powers = [effect[name].power for name in order]
    assert powers == sorted(powers, reverse=True)


@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock"])
def test_group_sequential_plans_spend_alpha(spending):
    measured = calibrate.group_sequential_rejections(spending, 10, runs=20_000, seed=9)
    assert measured == pytest.approx(0.05, abs=0.0078)
    alone = calibrate.group_sequential_rejections(spending, 10, runs=2_000, seed=9, bound=1.96)
    assert alone > limit(2_000, 0.05)  # planted bug


@pytest.mark.parametrize(("share", "look"), [(0.5, 50), (0.05, 400)])
def test_the_two_arm_sprt_keeps_both_errors_and_is_between_them_midway(share, look):
    run = partial(
        calibrate.two_arm_sprt, 0.1, effect=0.03, share=share, runs=400, seed=10, look=look, looks=200
    )
    (type_one, _), (midway, _), (power, type_two) = run(0.0), run(0.015), run(0.03)
    assert type_one <= limit(400, 0.05)
    assert type_two <= limit(400, 0.20)
    assert type_one < midway < power
    assert run(0.0, limits=WaldLimits(0.20, 0.20))[0] > limit(400, 0.05)  # planted bug


def test_the_sample_ratio_test_alarms_for_faults_only():
    assert counts.srm_alarms(0.5, runs=400, seed=11).alarms <= limit(400, 0.01)
    assert counts.srm_alarms(0.51, runs=200, seed=12).alarms > 0.9
    peeking = counts.srm_alarms(0.5, runs=400, seed=11, evidence=counts.chi_square_evidence)
    assert peeking.alarms > limit(400, 0.01)  # planted bug
    assert counts.moving_srm_alarms(runs=40, seed=13) <= limit(40, 0.01)
    assert counts.moving_srm_alarms(runs=10, seed=13, stale=True) >= 0.3  # planted fault


def test_canaries_are_rolled_back_soon_and_healthy_ones_are_not():
    healthy = counts.error_canary(0.01, 0.01, runs=300, looks=500, seed=14)
    assert healthy.alarms <= limit(300, 0.01)
    misled = counts.error_canary(0.01, 0.01, runs=100, looks=500, seed=14, share=0.04)
    assert misled.alarms > limit(100, 0.01)  # planted fault
    broken = counts.error_canary(0.01, 0.03, runs=300, looks=60, seed=15)
    assert broken.median <= 900
    slow = counts.latency_canary(1.1, runs=100, looks=40, seed=16)
    assert slow.median <= 700
    assert counts.latency_canary(1.0, runs=60, looks=200, seed=17).alarms <= limit(60, 0.01)


def test_estimates_under_a_bandit_cover_where_averages_do_not():
    history = bandits.thompson([0.0, 0.0], kind="normal", periods=300, batch=8, runs=800, seed=18)
    figures = bandits.bandit_figures(history, [0.0, 0.0], kind="normal")
    floor = 0.95 - (limit(800, 0.05) - 0.05)
    assert figures.coverage >= floor
    assert figures.arm_coverage >= floor
    assert abs(figures.bias) <= 0.02
    assert figures.anytime_misses <= limit(800, 0.05)
    assert figures.naive_coverage < floor  # planted bug
    assert figures.naive_anytime_misses > limit(800, 0.05)  # planted bug
    looks = range(50, 301, 25)
    sequence = partial(bandits.aipw_sequence_misses, history, [0.0, 0.0], looks=looks)
    assert sequence(pulls_min=100) <= limit(800, 0.05)


def test_exact_sequences_hold_under_a_bandit_with_late_rewards():
    means = [0.3, 0.35, 0.45]
    history = bandits.thompson(means, kind="bernoulli", periods=60, batch=100, runs=300, seed=19, delay=5)
    assert bandits.bandit_figures(history, means, kind="bernoulli").anytime_misses <= limit(300, 0.05)
    short = bandits.thompson(means, kind="bernoulli", periods=40, batch=100, runs=30, seed=20)
    assert bandits.importance_misses(short, means, looks=(10, 20, 40)) <= limit(30, 0.05)


def test_p_values_of_two_equal_arms_are_uniform_and_caution_is_no_fault():
    good = aa.uniformity(calibrate.welch_p_values("normal", n=200, runs=2_000, seed=21))
    assert good.ks_p_value > 1e-6
    heavy = aa.uniformity(calibrate.welch_p_values("lognormal", n=200, runs=2_000, seed=22))
    assert heavy.share < 0.05
    assert heavy.excess_p_value > 0.5
    p = calibrate.welch_p_values("normal", n=200, runs=2_000, seed=23)
    assert aa.uniformity(p**1.3).too_small_p_value < 1e-6  # planted bug


def test_replays_measure_the_rule_that_peeks_and_the_one_that_may():
    values = np.random.default_rng(20260101).lognormal(0, 1, 4_000)
    looks = range(400, 4_001, 200)

    def peeks(control, treatment):
        if min(control.n, treatment.n) < 2:
            raise InsufficientData("needs two")
        error = np.sqrt(control.variance / control.n + treatment.variance / treatment.n)
        return abs(treatment.mean - control.mean) > 1.96 * error

    def may(control, treatment):
        found = sequences.difference_sequence(Contrast.of((control, treatment)), alpha=0.05, tuned_to=1_000)
        return not found.lower <= 0 <= found.upper

    measure = partial(aa.false_positive_rate, values, looks=looks, replays=200)
    assert measure(may, rng=np.random.default_rng(20260102)).rate <= limit(200, 0.05)
    assert measure(peeks, rng=np.random.default_rng(20260103)).rate > limit(200, 0.05)
