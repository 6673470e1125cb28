"""Sample sizes: published figures, statsmodels, and the inverses of one another."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.power import NormalIndPower

from benchmarks import calibrate_fixed as calibrate
from stats.errors import InvalidInput
from stats.planning import (
    Feasible,
    MeanOutcome,
    Plan,
    ProportionOutcome,
    RatioOutcome,
    TrafficTooLow,
    duration,
    minimum_detectable_effect,
    power,
    sample_size,
)


# The figures of the field that a plan must give (units per variant, alpha 0.05, power 0.8).
@pytest.mark.parametrize(
    ("outcome", "effect", "units"),
    [
        (ProportionOutcome(0.10), 0.01, 14_751),
        (ProportionOutcome(0.50), 0.005, 157_000),
        (ProportionOutcome(0.10), 0.001, 1_420_000),
        (ProportionOutcome(0.05), 0.0005, 3_000_000),
        (ProportionOutcome(0.01), 0.0001, 15_600_000),
        (ProportionOutcome(0.50), 0.01, 39_000),
        (MeanOutcome(1.0), 0.01, 156_978),
    ],
)
def test_known_sample_sizes_are_reproduced(outcome, effect, units):
    sample = sample_size(Plan(outcome, 0.05, 0.8), effect)
    tolerance = 1 if units in (14_751, 156_978) else 0.007 * units
    assert sample.per_variant[0] == pytest.approx(units, abs=tolerance)


@given(st.floats(0.05, 1.0), st.floats(0.1, 0.9), st.floats(0.001, 0.2), st.floats(0.3, 0.95))
def test_means_agree_with_statsmodels(effect, share, alpha, wanted):
    plan = Plan(MeanOutcome(1.0), alpha, wanted, (1 - share, share))
    reference = NormalIndPower().power(effect, 500 * (1 - share), alpha, ratio=share / (1 - share))
    assert power(plan, effect, 500) == pytest.approx(reference, rel=1e-9)


@given(st.sampled_from([plan for plan, _ in calibrate.PLANS]), st.floats(1_000, 1e7))
def test_units_power_and_detectable_effect_are_one_relation(plan, units):
    effect = minimum_detectable_effect(plan, units)
    if effect > -plan.margin and effect:
        assert power(plan, effect, units) == pytest.approx(plan.power, rel=1e-6)
        assert sample_size(plan, effect).total == pytest.approx(units, rel=1e-4, abs=len(plan.allocation) + 1)


def test_arms_exposure_and_weeks_count():
    plan, many = (Plan(ProportionOutcome(0.1), 0.05, 0.8, (1 / k,) * k) for k in (2, 4))
    assert sample_size(many, 0.01).per_variant[0] > 1.2 * sample_size(plan, 0.01).per_variant[0]
    assert duration(plan, 0.01, units_per_day=5_000, exposure_share=0.8) == Feasible(
        sample_size(plan, 0.01), weeks=2, days=14
    )
    sequential = Plan(ProportionOutcome(0.1), 0.05, 0.8, inflation=1.229)
    assert sample_size(sequential, 0.01).total == pytest.approx(1.229 * 29_502, abs=3)
    assert power(sequential, 0.01, 1.229 * 29_502) == pytest.approx(0.8, abs=1e-4)
    reduced = Plan(MeanOutcome(1.0), 0.05, 0.8, variance_reduction=0.36)
    assert sample_size(reduced, 0.1).total == pytest.approx(0.64 * 2 * 1569.8, abs=3)
    assert RatioOutcome(1, 2, 1, 1, 0.5).sd == pytest.approx(math.sqrt(0.75) / 2)


def test_low_traffic_is_said_plainly_with_what_to_do_instead():
    plan = Plan(ProportionOutcome(0.5), 0.05, 0.8)
    result = duration(plan, 0.005, units_per_day=1_000)
    assert isinstance(result, TrafficTooLow)
    assert result.weeks == 45
    assert result.detectable == pytest.approx(0.0118, abs=1e-4)
    advice = " ".join(result.advice)
    assert all(word in advice for word in ("weekly", "paired", "bolder"))
    assert isinstance(duration(plan, 0.1, units_per_day=1_000), Feasible)


def test_what_cannot_be_planned_is_refused():
    plan = Plan(ProportionOutcome(0.5), 0.05, 0.8)
    for wrong in (
        lambda: sample_size(plan, 0.0),
        lambda: sample_size(plan, 0.6),
        lambda: sample_size(Plan(ProportionOutcome(0.5), 0.05, 0.8, margin=0.1), -0.1),
        lambda: Plan(ProportionOutcome(0.5), 0.05, 0.04),
        lambda: Plan(ProportionOutcome(0.5), 0.05, 0.8, (0.5, 0.4)),
        lambda: Plan(ProportionOutcome(0.5), 0.05, 0.8, inflation=0.5),
        lambda: sample_size(Plan(MeanOutcome(1.0), 0.05, 0.8), 1e-12),
        lambda: minimum_detectable_effect(plan, 2.0),
        lambda: duration(plan, 0.1, units_per_day=0),
    ):
        with pytest.raises(InvalidInput):
            wrong()


def test_pairs_need_the_variance_of_their_differences():
    """Means: 2 (1 - r) (z + z)^2 / effect^2. Proportions: Miettinen's formula for McNemar's test."""
    pairs = sample_size(Plan(MeanOutcome(1.0), 0.05, 0.8, pair_correlation=0.5), 0.01)
    assert (pairs.total, pairs.per_variant) == (78_489, (78_489, 78_489))
    independent = sample_size(Plan(MeanOutcome(1.0), 0.05, 0.8), 0.01)
    assert sample_size(Plan(MeanOutcome(1.0), 0.05, 0.8, pair_correlation=0.0), 0.01).total == pytest.approx(
        independent.per_variant[0], abs=1
    )


def test_the_power_of_pairs_is_that_of_mcnemars_test():
    """20,000 experiments of 400 pairs: the normal approximation is within 1.5 points of the test itself."""
    rng = np.random.default_rng(20261201)
    control, treatment, correlation, pairs, runs = 0.3, 0.4, 0.35, 400, 20_000
    both = control * treatment + correlation * math.sqrt(
        control * treatment * (1 - control) * (1 - treatment)
    )
    chances = [both, treatment - both, control - both, 1 - treatment - control + both]
    counts = rng.multinomial(pairs, chances, size=runs)
    gained, lost = counts[:, 1], counts[:, 2]
    rejected = (gained - lost) ** 2 > 1.959964**2 * (gained + lost)
    plan = Plan(ProportionOutcome(control), 0.05, 0.8, pair_correlation=correlation)
    assert power(plan, treatment - control, pairs) == pytest.approx(rejected.mean(), abs=0.015)
    unpaired = power(Plan(ProportionOutcome(control), 0.05, 0.8), treatment - control, 2 * pairs)
    assert abs(unpaired - rejected.mean()) > 0.05, "a plan that ignores the pairs is seen here"


def test_a_correlation_that_two_rates_cannot_have_is_refused():
    plan = Plan(ProportionOutcome(0.1), 0.05, 0.8, pair_correlation=0.9)
    with pytest.raises(InvalidInput, match=r"must be possible for rates of 0\.1 and 0\.5"):
        sample_size(plan, 0.4)
    with pytest.raises(InvalidInput, match="pair_correlation"):
        Plan(MeanOutcome(1.0), 0.05, 0.8, pair_correlation=1.0)
