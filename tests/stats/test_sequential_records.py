"""What sequential records refuse, keep and have in common."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stats import aa, adaptive, eprocess, mixture, sequences, srm
from stats.adaptive import ArmPeriod
from stats.bounded import BernsteinSums, HedgedCapital, bounded_difference_sequence, bounded_sequence
from stats.eprocess import AlwaysValid, EValue
from stats.errors import InsufficientData, InvalidInput
from stats.group_sequential import GroupSequentialPlan
from stats.interval import Interval
from stats.mixture import MixtureSprt
from stats.sequences import Contrast
from stats.sequential_counts import EventCounts, ratio_evalue, ratio_sequence
from stats.sprt import BernoulliSprt, NormalSprt, WaldLimits
from stats.srm import ArmCounts
from stats.totals import MeanTotals, ProportionTotals
from stats.yeast import Yeast

SIDES = ("two-sided", "greater", "less")


def test_an_always_valid_p_never_rises_and_merges_in_any_order():
    looks = [EValue(math.log(e)) for e in (2, 25, 10)]
    state = AlwaysValid()
    seen = [(state := state.after(look)).p_value for look in looks]
    assert seen == pytest.approx([1 / 2, 1 / 25, 1 / 25])
    other = AlwaysValid().after(looks[0])
    assert state.merge(other) == other.merge(state) == state
    assert msgspec.json.decode(msgspec.json.encode(state), type=AlwaysValid) == state


def test_overwhelming_evidence_is_neither_zero_nor_infinite():
    strong = EValue(1e6)
    assert strong.p_value > 0
    assert strong.value == math.inf
    assert AlwaysValid().after(strong).log_p_value == -1e6
    assert EValue(-math.inf).p_value == 1
    assert Yeast(0.05).p_value(1e3) > 0


def test_e_values_multiply_and_average():
    four, five = EValue(math.log(4)), EValue(math.log(5))
    assert eprocess.product([four, five]).value == pytest.approx(20)
    assert eprocess.product([four, EValue(-math.inf)]).value == 0
    assert eprocess.average([EValue(math.log(30)), EValue(math.log(10))]).value == pytest.approx(20)
    assert eprocess.average([four, five], [0, 1]).value == pytest.approx(5)
    assert EValue(math.log(20) + 1e-9).rejects(0.05)
    for bad in ([0.5], [2, -1], [0.5, 0.6]):
        with pytest.raises(InvalidInput):
            eprocess.average([four, five], bad)
    with pytest.raises(InvalidInput):
        eprocess.average([])


@pytest.mark.parametrize("totals", [ProportionTotals(1, 0), ProportionTotals(1, 1), ProportionTotals(2, 1)])
def test_one_or_two_units_say_nothing_about_a_proportion(totals):
    assert bounded_sequence(totals, alpha=0.05, tuned_to=1_000) == Interval(0, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 10**9), st.sampled_from([100, 10_000]))
def test_the_exact_sequence_contains_what_was_seen_mirrors_and_widens(successes, n, tuned_to):
    successes = min(successes, n)
    found = bounded_sequence(ProportionTotals(n, successes), alpha=0.05, tuned_to=tuned_to)
    assert 0 <= found.lower <= successes / n <= found.upper <= 1
    assert found.lower < found.upper
    mirrored = bounded_sequence(ProportionTotals(n, n - successes), alpha=0.05, tuned_to=tuned_to)
    assert mirrored.lower == pytest.approx(1 - found.upper, abs=1e-6)
    wider = bounded_sequence(ProportionTotals(n, successes), alpha=0.001, tuned_to=tuned_to)
    assert wider.lower <= found.lower + 1e-9
    assert wider.upper >= found.upper - 1e-9


def test_one_sided_sequences_bound_one_side():
    totals = ProportionTotals(1_000, 300)
    low = bounded_sequence(totals, alpha=0.05, tuned_to=1_000, alternative="greater")
    high = bounded_sequence(totals, alpha=0.05, tuned_to=1_000, alternative="less")
    both = bounded_sequence(totals, alpha=0.05, tuned_to=1_000)
    assert (low.upper, high.lower) == (1, 0)
    assert both.lower < low.lower < 0.3 < high.upper < both.upper
    difference = bounded_difference_sequence(totals, ProportionTotals(1_000, 450), alpha=0.05, tuned_to=1_000)
    assert 0 < difference.lower < 0.15 < difference.upper
    assert bounded_difference_sequence(
        ProportionTotals(), ProportionTotals(), alpha=0.05, tuned_to=9
    ) == Interval(-1, 1)


def contrast(*, shift=0.0, n=1_000):
    return Contrast.of((MeanTotals(n, 1.0, float(n)), MeanTotals(n, 1.0 + shift, float(n))))


def test_a_sequence_of_a_difference_is_refused_before_its_burn_in():
    few = MeanTotals(sequences.ARM_UNITS_MIN - 1, 1.0, 5.0)
    with pytest.raises(InsufficientData, match="treatment units"):
        Contrast.of((MeanTotals(1_000, 1.0, 5.0), few))
    with pytest.raises(InsufficientData, match="no spread"):
        Contrast.of((MeanTotals(1_000, 1.0, 0.0), MeanTotals(1_000, 1.0, 0.0)))
    with pytest.raises(InsufficientData):
        Contrast.of()
    with pytest.raises(InsufficientData, match="at least 2000"):
        sequences.mean_sequence(MeanTotals(1_999, 1.0, 5.0), alpha=0.05, tuned_to=1_000)


def test_swapping_arms_flips_the_sign_and_the_width_is_known():
    a, b = MeanTotals(1_000, 1.0, 900.0), MeanTotals(400, 1.3, 500.0)
    one = sequences.difference_sequence(Contrast.of((a, b)), alpha=0.05, tuned_to=300)
    other = sequences.difference_sequence(Contrast.of((b, a)), alpha=0.05, tuned_to=300)
    assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower))
    # At the sample size that it is tuned to, 3.04 standard errors: 1.55 times the fixed interval.
    even = contrast(n=1_000)
    width = sequences.difference_sequence(even, alpha=0.05, tuned_to=500).upper
    assert width / math.sqrt(even.control_variance + even.treatment_variance) == pytest.approx(
        3.035, abs=0.01
    )


def test_the_e_value_reaches_its_bound_where_the_sequence_excludes_the_null():
    from stats import mixture

    rho = mixture.tuned(500, alpha=0.05, alternative="greater")
    found = contrast(shift=0.2)
    bound = sequences.difference_sequence(found, alpha=0.05, tuned_to=500, alternative="greater").lower
    assert found.evalue(rho=rho, alternative="greater", shift=bound).value == pytest.approx(20)
    relative = sequences.relative_difference_sequence(
        found, alpha=0.05, tuned_to=500, alternative="greater"
    ).lower
    assert found.evalue(rho=rho, alternative="greater", ratio=1 + relative).value == pytest.approx(20)


def test_a_ramp_under_a_drifting_baseline_shows_no_effect_where_there_is_none():
    # Both arms are equal in each period; the treatment grows while the baseline falls (Simpson's paradox).
    first = (MeanTotals(9_900, 2.0, 9_900.0), MeanTotals(100, 2.0, 100.0))
    second = (MeanTotals(5_000, 1.0, 5_000.0), MeanTotals(5_000, 1.0, 5_000.0))
    pooled = Contrast.of((first[0] + second[0], first[1] + second[1]))
    naive = sequences.difference_sequence(pooled, alpha=0.05, tuned_to=2_000)
    ours = sequences.difference_sequence(Contrast.of(first, second), alpha=0.05, tuned_to=2_000)
    assert naive.upper < 0
    assert ours.lower < 0 < ours.upper


def test_strata_are_weighted_by_their_effective_units():
    def stratum(n, difference):
        return MeanTotals(n, 5.0, float(n)), MeanTotals(n, 5.0 + difference, float(n))

    found = Contrast.of(stratum(100, 1.0), stratum(300, 2.0), (MeanTotals(), MeanTotals(9, 1.0, 4.0)))
    assert found.time == pytest.approx(200)
    assert found.treatment_mean - found.control_mean == pytest.approx(1.75)


def test_a_known_variance_needs_no_burn_in():
    found = sequences.normal_sequence(0.0, 0.01, alpha=0.05, tuned_to=1 / 821.19)
    assert (found.lower, found.upper) == pytest.approx((-0.36564, 0.36564), abs=1e-5)
    above = sequences.normal_sequence(0.0, 0.01, alpha=0.05, tuned_to=1 / 821.19, alternative="greater")
    assert (found.lower < above.lower, above.upper) == (True, math.inf)


def test_a_plan_in_the_other_direction_is_the_mirror_image():
    fractions = [0.3, 0.7, 1.0]
    up, down = (GroupSequentialPlan(0.025, "pocock", side) for side in ("greater", "less"))
    assert up.boundaries(fractions) == pytest.approx(down.boundaries(fractions))
    assert up.power(fractions, drift=2.5) == pytest.approx(down.power(fractions, drift=-2.5))
    assert down.drift_for(fractions, power=0.8) == pytest.approx(up.drift_for(fractions, power=0.8))
    assert up.adjusted_p_value(2.0, fractions) == pytest.approx(down.adjusted_p_value(-2.0, fractions))
    assert up.adjusted_interval(2.0, fractions, information=100).upper == math.inf
    assert down.repeated_interval(0.1, 0.05, fractions).lower == -math.inf
    with pytest.raises(InvalidInput, match="type-I error"):
        up.drift_for(fractions, power=0.02)


def test_relative_differences_need_a_control_that_is_not_zero():
    with pytest.raises(InsufficientData, match="told from 0"):
        sequences.relative_difference_sequence(
            Contrast.of((MeanTotals(500, 0.01, 500.0), MeanTotals(500, 1.0, 500.0))), alpha=0.05, tuned_to=500
        )


def test_the_mixture_sprt_takes_any_split():
    sprt = MixtureSprt(0.1)
    found = sprt.of_difference(MeanTotals(1_900, 0.0, 1.0), MeanTotals(100, 0.5, 1.0), sd=1.0)
    assert found == sprt.evalue(0.5, 1 / 1_900 + 1 / 100)
    assert sprt.evalue(0.0, 1.0).value < 1
    with pytest.raises(InsufficientData):
        sprt.of_difference(MeanTotals(), MeanTotals(1, 1.0, 0.0), sd=1.0)


def test_bernstein_sums_take_batches_and_refuse_what_is_not_within_bounds():
    state = BernsteinSums().after(MeanTotals(2, 0.5, 0.5))
    assert state == BernsteinSums(2, 1.0, 0.5)
    assert BernsteinSums().interval(alpha=0.05, tuned_to=10) == Interval(0, 1)
    with pytest.raises(InvalidInput):
        state.after(MeanTotals(2, 1.5, 0.0))
    with pytest.raises(InvalidInput, match="too large"):
        state.after(MeanTotals(2, 0.5, 3.0))
    x = np.random.default_rng(20260101).beta(1, 9, 20_000)
    for batch in np.split(x, 200):
        state = state.after(MeanTotals(100, float(batch.mean()), float(((batch - batch.mean()) ** 2).sum())))
    narrow = state.interval(alpha=0.05, tuned_to=20_000)
    wide = bounded_sequence(MeanTotals(20_000, float(x.mean()), 1.0), alpha=0.05, tuned_to=20_000)
    assert wide.lower < narrow.lower < 0.1 < narrow.upper < wide.upper


def test_betting_is_the_same_in_one_batch_or_many():
    x = np.random.default_rng(20260101).beta(1, 9, 600)
    once = HedgedCapital.start(100).after(x, alpha=0.05)
    often = HedgedCapital.start(100).after([], alpha=0.05)
    for batch in np.split(x, 6):
        often = often.after(batch, alpha=0.05)
    assert often.rising == pytest.approx(once.rising)
    found = once.interval(alpha=0.05)
    assert found.lower < 0.1 < found.upper < 0.2
    with pytest.raises(InvalidInput):
        once.after([1.2], alpha=0.05)
    with pytest.raises(InsufficientData):
        HedgedCapital.start().interval(alpha=0.05)


def test_the_ratio_of_rates_is_bounded_where_events_allow():
    found = ratio_sequence([EventCounts(190, 30, 0.05)], alpha=0.05, expected_ratio=2)
    assert 1 < found.lower < 3 < found.upper < 6
    none = ratio_sequence([EventCounts(50, 0, 0.5)], alpha=0.05, expected_ratio=2)
    assert none.lower == 0
    assert none.upper < 1
    only = ratio_sequence([EventCounts(0, 50, 0.5)], alpha=0.05, expected_ratio=2)
    assert only.upper == math.inf
    with pytest.raises(InsufficientData):
        ratio_sequence([EventCounts(0, 0, 0.5)], alpha=0.05, expected_ratio=2)
    big = ratio_evalue([EventCounts(10**9, 2 * 10**9, 0.5)], expected_ratio=2)
    assert math.isfinite(big.log_value)


def test_the_bound_of_a_ratio_is_where_its_evidence_is():
    periods = [EventCounts(40, 12, 0.1), EventCounts(30, 45, 0.5)]
    bound = ratio_sequence(periods, alpha=0.05, expected_ratio=2, alternative="greater").lower
    evidence = ratio_evalue(periods, ratio=bound, expected_ratio=2, alternative="greater")
    assert evidence.value == pytest.approx(20, rel=1e-6)


@pytest.mark.parametrize(
    ("shift", "n", "harm", "safe"),
    [
        (0.5, 5_000, True, False),
        (0.0, 20_000, False, True),
        (0.03, 500, False, False),
        (0.05, 10**7, True, True),
    ],
)
def test_two_one_sided_sequences_say_worse_and_not_worse_by_the_margin(shift, n, harm, safe):
    """A relative margin of 10 %. Worse by less than the margin is both in the end."""
    found = contrast(shift=shift, n=n)
    lower, upper = (
        sequences.relative_difference_sequence(found, alpha=0.01, tuned_to=1_000, alternative=side)
        for side in ("greater", "less")
    )
    rho = mixture.tuned(1_000, alpha=0.01, alternative="greater")
    assert found.evalue(rho=rho, alternative="greater").rejects(0.01) == (lower.lower > 0) == harm
    assert found.evalue(rho=rho, alternative="less", ratio=1.1).rejects(0.01) == (upper.upper < 0.1) == safe


@pytest.mark.parametrize(
    ("period", "harm", "safe"),
    [
        (EventCounts(190, 40, 0.05), True, False),
        (EventCounts(1_900, 100, 0.05), False, True),
        (EventCounts(0, 0, 0.05), False, False),
    ],
)
def test_evidence_of_rare_events_needs_no_burn_in(period, harm, safe):
    """At 10 events to be expected 40 are too many; 100 of 100 are not twice as many; nothing says nothing."""
    worse = ratio_evalue([period], expected_ratio=2.0, alternative="greater")
    within = ratio_evalue([period], ratio=2.0, expected_ratio=2.0, alternative="less")
    assert (worse.rejects(0.01), within.rejects(0.01)) == (harm, safe)


@pytest.mark.parametrize(
    "make",
    [
        lambda: EventCounts(-1, 0, 0.5),
        lambda: EventCounts(1, 0, 1.0),
        lambda: EValue(math.nan),
        lambda: AlwaysValid(0.1),
        lambda: ArmCounts((1, 2), (0.5, 0.4)),
        lambda: ArmCounts((1,), (1.0,)),
        lambda: ArmPeriod(1, 0.0),
        lambda: ArmPeriod(1, 0.5, pulls=2),
        lambda: ArmPeriod(1, 0.5) + ArmPeriod(1, 0.25),
        lambda: ArmPeriod.event(1.0, propensity=0.0, share=0.5),
        lambda: MixtureSprt(0.0),
        lambda: WaldLimits(0.6, 0.5),
        lambda: BernoulliSprt(0.5, (0.5,), WaldLimits(0.05, 0.2)),
        lambda: BernoulliSprt(0.5, (0.6, 0.7), WaldLimits(0.05, 0.2)),
        lambda: NormalSprt(0, 0, 1, WaldLimits(0.05, 0.2)),
        lambda: NormalSprt(0, 1e-4, 1, WaldLimits(0.05, 0.2)).operating_characteristic(0),
        lambda: Yeast(0.05).rejects(2.0, 1.2),
        lambda: GroupSequentialPlan(0.05).boundaries([]),
        lambda: GroupSequentialPlan(0.05).boundaries([0.5, 0.5]),
        lambda: GroupSequentialPlan(0.05).boundaries([0.5, 1.0, 1.1]),
        lambda: sequences.normal_sequence(0.0, 0.0, alpha=0.05, tuned_to=1.0),
        lambda: sequences.normal_sequence(0.0, 1.0, alpha=1.0, tuned_to=1.0),
        lambda: bounded_sequence(MeanTotals(3, 2.0, 1.0), alpha=0.05, tuned_to=10),
        lambda: aa.uniformity([0.5] * 30 + [1.5]),
    ],
)
def test_what_means_nothing_is_refused(make):
    with pytest.raises(InvalidInput):
        make()


def test_a_mismatch_is_measured_and_leaks_are_counted_apart():
    periods = [ArmCounts((5_100, 4_900, 0), (0.5, 0.5, 0.0)), ArmCounts((90, 100, 3), (0.5, 0.5, 0.0))]
    assert srm.zero_weight_leaks(periods) == (0, 0, 3)
    assert srm.deviations([ArmCounts((5_100, 4_900), (0.5, 0.5))]) == pytest.approx((0.02, -0.02))
    assert srm.chi_square(periods).degrees_of_freedom == 1
    assert srm.evalue([ArmCounts((0, 0), (0.5, 0.5))]).value == pytest.approx(1)
    broken = srm.evalue([ArmCounts((600_000, 400_000), (0.5, 0.5))])
    assert broken.rejects(0.001)
    assert srm.evalue([ArmCounts((10**9, 10**9), (0.5, 0.5))]).value < 1
    assert ArmCounts((1, 2), (0.5, 0.5)) + ArmCounts((3, 4), (0.5, 0.5)) == ArmCounts((4, 6), (0.5, 0.5))
    with pytest.raises(InsufficientData):
        srm.chi_square([ArmCounts((1, 2), (0.5, 0.5))])
    with pytest.raises(InsufficientData):
        srm.chi_square([ArmCounts((100, 0), (1.0, 0.0))])


def test_the_sample_ratio_does_not_depend_on_how_periods_are_cut():
    whole = srm.evalue([ArmCounts((300, 250), (0.5, 0.5)), ArmCounts((100, 320), (0.25, 0.75))])
    parts = [
        ArmCounts((100, 320), (0.25, 0.75)),
        ArmCounts((200, 100), (0.5, 0.5)),
        ArmCounts((100, 150), (0.5, 0.5)),
    ]
    assert srm.evalue(parts).log_value == pytest.approx(whole.log_value)


def test_sums_of_events_are_the_sums_of_totals():
    rewards = [1.0, 0.25, 0.5]
    events = [ArmPeriod.event(r, propensity=0.25, share=0.25) for r in rewards]
    events += [ArmPeriod.event(None, propensity=0.75, share=0.25)] * 4
    total = events[0]
    for event in events[1:]:
        total = total + event
    plain = ArmPeriod.constant(7, 0.25, MeanTotals.from_sums(3, sum(rewards), sum(r * r for r in rewards)))
    for name in ArmPeriod.__struct_fields__:
        assert getattr(total, name) == pytest.approx(getattr(plain, name))
    assert ArmPeriod.event(1.0, propensity=0.25, share=0.25) == ArmPeriod(1, 0.25, 1, 4, 16, 4, 16, 16)


def test_adaptive_estimates_worked_by_hand():
    period = ArmPeriod.constant(400, 0.5, MeanTotals(200, 0.5, 50.0))
    caution = 1 + 3 / math.sqrt(200)
    for weights in ("uniform", "propensity"):
        found = adaptive.adaptive_mean([period], weights=weights)
        assert found.value == pytest.approx(0.5)
        assert found.standard_error == pytest.approx(math.sqrt(0.5 / 400 * caution))
    other = ArmPeriod.constant(400, 0.5, MeanTotals(200, 1.0, 0.0))
    difference = adaptive.adaptive_difference([period], [other])
    # Scores of the control 1/2, 1/2, 3/2, -1/2 beside 3/2, 3/2, 1/2, 1/2 of the treatment:
    # variances 1/2 and 1/4, covariance 0.
    assert difference.value == pytest.approx(0.5)
    assert difference.standard_error == pytest.approx(math.sqrt(0.75 / 400 * caution))
    assert difference.interval(alpha=0.05).lower < 0.5
    with pytest.raises(InsufficientData):
        adaptive.adaptive_mean([ArmPeriod.constant(98, 0.5, MeanTotals(49, 0.5, 5.0))])
    small = ArmPeriod.constant(198, 0.5, MeanTotals(99, 0.5, 5.0))
    with pytest.raises(InsufficientData):
        adaptive.difference_sequence([small], [small], alpha=0.05, tuned_to=100)
    with pytest.raises(InvalidInput):
        adaptive.adaptive_difference([period], [ArmPeriod.constant(500, 0.5, MeanTotals(200, 1.0, 0.0))])


def test_importance_weighting_covers_and_narrows():
    period = ArmPeriod.constant(100_000, 0.1, MeanTotals.from_sums(10_000, 3_000, 3_000))
    found = adaptive.importance_sequence([period], alpha=0.05, tuned_to=100_000, expected_variance=3)
    assert 0.25 < found.lower < 0.3 < found.upper < 0.35
    assert adaptive.importance_sequence(
        [ArmPeriod(0, 0.5)], alpha=0.05, tuned_to=9, expected_variance=1
    ) == Interval(0, 1)
    bad = ArmPeriod.constant(100, 0.1, MeanTotals(10, 2.0, 0.0))
    with pytest.raises(InvalidInput):
        adaptive.importance_sequence([bad], alpha=0.05, tuned_to=9, expected_variance=1)


def test_every_side_bounds_what_it_claims():
    for alternative in SIDES:
        found = sequences.difference_sequence(contrast(), alpha=0.05, tuned_to=500, alternative=alternative)
        assert math.isinf(found.lower) == (alternative == "less")
        assert math.isinf(found.upper) == (alternative == "greater")


def test_noise_and_uniformity_worked_by_hand():
    floor = aa.noise_floor(MeanTotals(10_000, 2.0, 9_999.0))
    assert floor.absolute == pytest.approx(0.0392, abs=5e-5)
    assert floor.relative == pytest.approx(0.0196, abs=5e-5)
    p = np.concatenate([np.full(14, 0.01), np.linspace(0.06, 1, 86)])
    found = aa.uniformity(p)
    assert found.share == pytest.approx(0.14)
    assert found.excess_p_value == pytest.approx(0.0005, abs=1e-4)
    cautious = aa.uniformity(np.linspace(0.3, 1, 400))
    assert cautious.excess_p_value > 0.5
    assert cautious.too_small_p_value > 0.5
    assert cautious.ks_p_value < 1e-6
    with pytest.raises(InsufficientData):
        aa.uniformity([0.5])
    with pytest.raises(InsufficientData):
        aa.noise_floor(MeanTotals(10, 1.0, 0.0))


def test_a_rule_that_always_decides_has_rate_one():
    values = np.arange(100.0)
    rng = np.random.default_rng(20260101)
    found = aa.false_positive_rate(values, lambda c, t: True, looks=[10, 100], replays=20, rng=rng)
    assert (found.rate, found.interval.upper) == (1, 1)
    with pytest.raises(InvalidInput):
        aa.false_positive_rate(values, lambda c, t: True, looks=[10, 101], replays=20, rng=rng)
