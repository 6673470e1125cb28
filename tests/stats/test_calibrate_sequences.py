"""V1, V8 and V9 in small: sequences that never miss too often, and wrong ones that the gates must catch.

A correct method fails a gate with probability below 1e-6. `make calibrate` runs them in full.
"""

from functools import partial

import numpy as np
import pytest

from benchmarks import calibrate_sequences as calibrate
from benchmarks.validity import at_least, error_limit
from stats import proportions, sequences
from stats.sequences import Contrast
from stats.totals import MeanTotals, ProportionTotals

limit = partial(error_limit, alpha=0.05, false_alarm=1e-6)


@pytest.mark.parametrize("stream", calibrate.STREAMS)
def test_the_difference_sequence_keeps_alpha_after_every_pair(stream):
    tunings = (1_000, 10_000)
    misses = calibrate.pair_misses(stream, pairs=10_000, runs=100, tunings=tunings, seed=1)
    assert max(misses) <= limit(100)


@pytest.mark.parametrize("stream", ["normal", "0.05", "0.005", "lognormal"])
def test_the_difference_sequence_keeps_alpha_with_a_small_arm(stream):
    misses = calibrate.two_arm_misses(stream, share=0.05, units=10_000, runs=100, tuned_to=1_000, seed=1)
    assert misses <= limit(100)


def test_the_gates_of_differences_catch_what_burn_in_and_shrinkage_are_for():
    fixed = partial(calibrate.pair_misses, "normal", pairs=10_000, multiplier=calibrate.fixed_multiplier)
    assert fixed(runs=100, tunings=[1_000], seed=1)[0] > limit(100)
    plug_in = partial(calibrate.two_arm_misses, "0.005", share=0.05, radius=calibrate.plug_in_radius)
    assert plug_in(units=10_000, runs=100, tuned_to=1_000, seed=1) > limit(100)


@pytest.mark.parametrize("case", [{"stream": "lognormal", "adjusted": True},
                                  {"stream": "0.005", "treatment_stream": "0.01"}])  # fmt: skip
def test_it_covers_effects_and_adjusted_values_too(case):
    misses = calibrate.two_arm_misses(**case, share=0.05, units=10_000, runs=100, tuned_to=1_000, seed=2)
    assert misses <= limit(100)


def test_the_simulated_radius_is_that_of_the_records():
    control, treatment = MeanTotals(1_900, 0.4, 300.0), MeanTotals(150, 0.3, 20.0)
    radius = calibrate.product_radius(1_900.0, 300.0, 150.0, 20.0, tuned_to=500)
    found = sequences.difference_sequence(Contrast.of((control, treatment)), alpha=0.05, tuned_to=500)
    assert found.upper - found.lower == pytest.approx(2 * float(radius))
    arms = MeanTotals(400, 0.4, 90.0), MeanTotals(400, 0.3, 80.0)
    error = np.sqrt(sum(sequences.shrunk_variances(400, 90.0, 400, 80.0)) / 400)
    found = sequences.difference_sequence(Contrast.of(arms), alpha=0.05, tuned_to=500)
    multiplier = calibrate.sequence_multiplier(np.array([99.0, 400.0]), tuned_to=500)
    assert multiplier[0] == np.inf
    assert found.upper - found.lower == pytest.approx(2 * float(multiplier[1] * error))


@pytest.mark.parametrize("stream", ["0.005", "lognormal", "t5"])
def test_the_sequence_of_a_mean_keeps_alpha_and_needs_its_burn_in(stream):
    run = partial(calibrate.mean_misses, stream, units=6_000, runs=300, tuned_to=2_000, seed=3)
    assert run() <= limit(300)
    if stream != "t5":
        assert run(start=100) > limit(300)  # planted bug


@pytest.mark.parametrize("p", [0.5, 0.05, 0.005])
def test_the_exact_sequence_keeps_alpha_from_the_first_unit(p):
    run = partial(calibrate.bounded_misses, p, units=5_000, runs=400, tuned_to=500, seed=4)
    assert run() <= limit(400)
    assert run(evidence=calibrate.likelihood_at_its_maximum) > limit(400)  # planted bug


def test_bernstein_keeps_alpha_where_the_fixed_interval_does_not():
    found = calibrate.batched_misses(batches=20, runs=60, seed=5)
    assert found.bernstein <= limit(60)
    assert found.fixed > limit(60)  # planted bug


def test_the_widths_are_those_of_the_table_and_wrong_ones_are_caught():
    assert [row for row in calibrate.width_rows(full=True) if not row.passed] == []
    assert calibrate.relative_width(units=5_000, tuned_to=25) > 1.56  # planted: tuned to another time
    fixed = proportions.exact_interval(ProportionTotals(1, 0), alpha=0.05)
    assert not at_least("V9", fixed.upper - fixed.lower, 1).passed  # planted bug
