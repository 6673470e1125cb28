"""V2 to V7 and section 2 in small: tests that may stop early, and wrong ones that the gates must catch.

A correct method fails a gate with probability below 1e-6. `make calibrate` runs them in full.
"""

from functools import partial

import pytest

from benchmarks import calibrate_sequential as calibrate
from benchmarks.validity import around, error_limit
from stats.sprt import BernoulliSprt, WaldLimits

limit = partial(error_limit, false_alarm=1e-6)


@pytest.mark.parametrize("name", calibrate.E_PROCESSES)
def test_an_e_process_is_at_most_one_on_average_and_seldom_large(name):
    found = calibrate.e_process(calibrate.E_PROCESSES[name], runs=2_000, seed=6)
    assert all(mean.value <= 1 + 5 * mean.error for mean in found.means.values())
    assert found.ever.value <= limit(2_000, 0.05)


def test_the_gates_of_e_processes_catch_a_likelihood_ratio_at_its_maximum():
    found = calibrate.e_process(calibrate.likelihood_ratio_at_its_maximum, runs=2_000, seed=6)
    assert any(mean.value > 1 + 3 * mean.error for mean in found.means.values())
    assert found.ever.value > limit(2_000, 0.05)


def test_an_always_valid_p_never_rises_where_the_inverse_of_the_e_value_does():
    assert calibrate.rising_p_values(runs=10, seed=7) == 0
    assert calibrate.rising_p_values(runs=10, seed=7, keep=False) > 100  # planted bug


def test_the_lead_of_two_roots_is_reached_as_often_as_reflection_says():
    gate = partial(around, "a lead", rate=0.0456, runs=2_000)
    assert gate(calibrate.lead_of_two_roots(900, runs=2_000, seed=8)).passed
    assert not gate(calibrate.lead_of_two_roots(900, runs=2_000, seed=8, factor=1.6)).passed  # planted bug


def test_the_binomial_sprt_keeps_its_errors_and_swapped_ones_do_not():
    null, other = (calibrate.binomial_sprt(p, runs=2_000, seed=9) for p in calibrate.EXACT_SPRT)
    assert null.reject.value <= limit(2_000, 0.05)
    assert other.accept.value <= limit(2_000, 0.20)
    swapped = calibrate.binomial_sprt(0.10, runs=2_000, seed=9, limits=WaldLimits(0.20, 0.05))
    assert swapped.reject.value > limit(2_000, 0.05)  # planted bug


def test_the_gate_of_exact_figures_catches_walds_approximation():
    pair = (0.10, 0.30, 0.02, 0.03)
    assert calibrate.distance_from_gsdesign(pair) <= 0.004
    assert calibrate.distance_from_gsdesign(pair, BernoulliSprt.wald_approximation) > 0.004


def test_methods_with_a_horizon_keep_alpha_and_have_their_power_in_order():
    null = calibrate.horizon_methods(0.0, runs=400, seed=7, steps=2_000)
    effect = calibrate.horizon_methods(2.8016, runs=400, seed=8, steps=2_000)
    for name, target in calibrate.TARGETS.items():
        assert null[name].power.value <= limit(400, 0.05), name
        assert effect[name].power.value >= target.power - 0.12, name
    assert null["naive peeking (planted)"].power.value > limit(400, 0.05)
    wasted = effect["Bonferroni at 20 looks (planted)"].power.value
    assert wasted < calibrate.TARGETS["GST O'Brien-Fleming K=20"].power - 0.12
    order = ["GST O'Brien-Fleming K=10", "GST Pocock K=10", "confidence sequence"]
    powers = [effect[name].power.value for name in order]
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
    assert type_one.value <= limit(400, 0.05)
    assert type_two.value <= limit(400, 0.20)
    assert type_one.value < midway.value < power.value
    assert run(0.0, limits=WaldLimits(0.20, 0.20))[0].value > limit(400, 0.05)  # planted bug
