"""V10, V11, V15 and section 9 in small: sample ratios, canaries, bandits, and faults that gates catch.

A correct method fails a gate with probability below 1e-6. `make calibrate` runs them in full.
"""

from functools import partial

from benchmarks import calibrate_bandits as bandits
from benchmarks import calibrate_counts as counts
from benchmarks.validity import error_limit

limit = partial(error_limit, false_alarm=1e-6)


def test_the_sample_ratio_test_alarms_for_faults_only():
    assert counts.srm_alarms(0.5, runs=400, seed=11).alarms.value <= limit(400, 0.01)
    assert counts.srm_alarms(0.51, runs=200, seed=12).alarms.value > 0.9
    peeking = counts.srm_alarms(0.5, runs=400, seed=11, evidence=counts.chi_square_evidence)
    assert peeking.alarms.value > limit(400, 0.01)  # planted bug
    assert counts.moving_srm_alarms(runs=10, seed=13).value <= limit(10, 0.01)
    assert counts.moving_srm_alarms(runs=10, seed=13, stale=True).value >= 0.3  # planted fault


def test_broken_canaries_are_rolled_back_soon_and_healthy_ones_are_not():
    healthy = counts.error_canary(0.01, 0.01, runs=100, looks=500, seed=14)
    assert healthy.alarms.value <= limit(100, 0.01)
    misled = counts.error_canary(0.01, 0.01, runs=100, looks=500, seed=14, share=0.04)
    assert misled.alarms.value > limit(100, 0.01)  # planted fault
    assert counts.error_canary(0.01, 0.03, runs=300, looks=60, seed=15).median.value <= 900


def test_slow_canaries_are_rolled_back_soon_and_healthy_ones_are_not():
    assert counts.latency_canary(1.1, runs=100, looks=40, seed=16).median.value <= 700
    healthy = partial(counts.latency_canary, 1.0, runs=60, looks=200, seed=17)
    assert healthy().alarms.value <= limit(60, 0.01)
    assert healthy(point=True).alarms.value > limit(60, 0.01)  # planted bug


def test_estimates_under_a_bandit_cover_where_averages_do_not():
    history = bandits.thompson([0.0, 0.0], kind="normal", periods=300, batch=8, runs=800, seed=18)
    figures = bandits.bandit_figures(history, [0.0, 0.0], kind="normal")
    floor = 0.95 - (limit(800, 0.05) - 0.05)
    assert figures.coverage.value >= floor
    assert figures.arm_coverage.value >= floor
    assert abs(figures.bias.value) <= 0.015
    assert figures.anytime_misses.value <= limit(800, 0.05)
    assert figures.naive_coverage.value < floor  # planted bug
    assert figures.naive_anytime_misses.value > limit(800, 0.05)  # planted bug
    assert abs(figures.naive_bias.value) > 0.015  # planted bug


def test_exact_sequences_hold_under_a_bandit_with_late_rewards():
    means = [0.3, 0.35, 0.45]
    history = bandits.thompson(means, kind="bernoulli", periods=60, batch=100, runs=300, seed=19, delay=5)
    assert bandits.bandit_figures(history, means, kind="bernoulli").anytime_misses.value <= limit(300, 0.05)
    short = bandits.thompson(means, kind="bernoulli", periods=40, batch=100, runs=30, seed=20)
    misses = partial(bandits.importance_misses, short, means, looks=(10, 20, 40))
    assert misses().value <= limit(30, 0.05)
    assert misses(position=2, forget=True).value > limit(30, 0.05)  # planted fault
