"""The validity table of policies, in small, and wrong ones that its gates must catch."""

import numpy as np
import pytest

from bandits.allocation import fixed
from bandits.pulls import FromTotals, exact_pulls
from benchmarks import calibrate_policies as calibrate


@pytest.mark.parametrize("part", calibrate.PARTS.values(), ids=calibrate.PARTS)
def test_every_row_of_the_validity_table_holds(part):
    assert [row for row in part(full=False) if not row.passed] == []


def test_the_gate_of_evaluation_catches_propensities_that_were_not_logged():
    found = calibrate.evaluated(10.0, logs=30, seed=400, forget=True)
    error = found.errors.std(axis=0) / np.sqrt(30)
    assert abs(found.errors.mean(axis=0)[0]) > 3 * error[0]


def test_the_gate_of_regret_catches_an_even_split():
    even = FromTotals(exact_pulls(lambda totals: fixed([0.5, 0.5])))
    (means, rounds, anchor), *_ = calibrate.REGRETS.values()
    lost = calibrate.regret(means, rounds=rounds, batch=100, runs=20, seed=401, policy=even)
    assert lost.value > 1.15 * anchor


def test_the_gate_of_batches_catches_an_even_split():
    even = FromTotals(exact_pulls(lambda totals: fixed([0.5, 0.5])))
    lost = calibrate.regret((0.10, 0.11), rounds=100_000, batch=10_000, runs=5, seed=402, policy=even)
    assert lost.value > 1.15 * max(calibrate.BATCHED.values())


def test_the_gate_of_overlap_catches_silence_about_too_little_of_it():
    found = calibrate.evaluated(100.0, logs=5, seed=403)
    assert found.poor > 0 == found.unwarned
    assert calibrate.evaluated(100.0, logs=5, seed=403, silent=True).unwarned == found.poor


def test_the_gate_of_the_real_log_catches_propensities_that_were_not_logged():
    found = calibrate.on_open_bandit(forget=True)
    assert all(abs(value / calibrate.OBP[name] - 1) > 1e-6 for name, value in found.items())
