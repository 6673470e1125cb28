"""V23 and V24 in small: equal arms under policies while levels drift, and power.

A correct method fails a gate with probability below 1e-6. `make calibrate` runs them in full.
"""

from functools import partial

import pytest

from benchmarks.calibrate_adaptive import OUTCOMES, Setting, bernoulli, figures
from benchmarks.validity import error_limit

RUNS = 60
limit = partial(error_limit, false_alarm=1e-6)


@pytest.mark.parametrize(("drift", "policy"), [("drift", "thompson"), ("step", "ucb")])
def test_drift_decides_nothing_where_averages_decide_wrongly(drift, policy):
    setting = Setting(policy, 200, 0.05, drift, 3_000)
    found = figures(setting, bernoulli(0.3), RUNS, 21, events=True)
    assert found.decided.value <= limit(RUNS, 0.05)
    assert found.covered.value >= 1 - limit(RUNS, 0.05)
    assert found.naive.value > limit(RUNS, 0.05)  # planted fault: averages over all time


@pytest.mark.parametrize("outcome", ["0.01", "ratio"])
def test_rare_and_skewed_values_decide_nothing_where_nothing_differs(outcome):
    setting = Setting("thompson", 200, 0.05, "season", 3_000)
    found = figures(setting, OUTCOMES[outcome], RUNS, 22, events=outcome[0] == "0")
    assert found.decided.value <= limit(RUNS, 0.05)
    assert found.covered.value >= 1 - limit(RUNS, 0.05)


def test_a_difference_is_found_and_covered():
    setting = Setting(batch=200, floor=0.2, units=6_000, effect=0.1 / 0.7)
    found = figures(setting, bernoulli(0.3), RUNS, 23, events=True, truth=0.1)
    assert found.decided.value > 0.9
    assert found.effect_missed.value <= limit(RUNS, 0.05)
    assert found.covered.value >= 1 - limit(RUNS, 0.05)


def test_three_arms_are_compared_within_periods_of_time():
    setting = Setting("thompson", 200, 0.1, "drift", 3_000, arms=3)
    found = figures(setting, bernoulli(0.1), RUNS, 24)
    assert found.decided.value <= limit(RUNS, 0.05)
