"""What all methods of `stats` have in common, asked of each of them.

A method that takes an alpha refuses what is none, and is wider where alpha is smaller. Two-sample methods
mirror when arms are swapped, do not care how totals were merged, and move with the unit of measurement. A
test decides as its interval does. Too little data, or totals that mean nothing, raise; they are never an
interval of zero width or p = 1.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stats import (
    aa,
    adaptive,
    agreement,
    bayesian,
    bounded,
    counts,
    eprocess,
    group_sequential,
    heterogeneity,
    means,
    mixture,
    multiplicity,
    one_sided,
    planning,
    prediction_powered,
    proportions,
    quantiles,
    ratios,
    relative,
    seasonality,
    sequences,
    sequential_counts,
    sprt,
    srm,
    stratification,
    synthetic_control,
    variance_reduction,
    yeast,
)
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.interval import Interval, beta_interval
from stats.sequential_counts import EventCounts
from stats.stratification import Stratum
from stats.totals import CountTotals, JointTotals, MeanTotals, ProportionTotals

ROWS = np.random.default_rng(20260101).gamma(4.0, 1.0, (2, 6_000))
"""Positive values of two arms that do not differ in distribution."""

SHIFT = 0.13


# --- Two-sample methods: from totals of (treatment, control) to an interval of the difference ---


class TwoSample(NamedTuple):
    """How values become totals, and totals an interval. What holds besides mirroring, merging and nesting."""

    total: Callable[[np.ndarray], Any]
    interval: Callable[[Any, Any, float], Interval]
    test: Callable[[Any, Any], float] | None = None
    scales: bool = True
    shifts: bool = True


def successes(values: np.ndarray) -> ProportionTotals:
    return ProportionTotals(len(values), int((values > 4).sum()))


def events(values: np.ndarray) -> CountTotals:
    return CountTotals(int(values.sum()), float(len(values)))


def within_unit(values: np.ndarray) -> MeanTotals:
    return MeanTotals.from_observations(values / 100)


def with_covariate(values: np.ndarray) -> JointTotals:
    return JointTotals.from_observations(np.stack((values, np.sqrt(np.abs(values))), axis=1))


def sessions(values: np.ndarray) -> JointTotals:
    return JointTotals.from_observations(np.stack((values, 1 + np.round(10 * values) % 5), axis=1))


def sketch(values: np.ndarray) -> quantiles.QuantileSketch:
    return quantiles.QuantileSketch.from_observations(values, accuracy=0.01)


def contrast(treatment: MeanTotals, control: MeanTotals) -> sequences.Contrast:
    return sequences.Contrast.of((control, treatment))


def period(arm: MeanTotals, other: MeanTotals) -> list[adaptive.ArmPeriod]:
    return [adaptive.ArmPeriod.constant(arm.n + other.n, 0.5, arm)]


def posterior(total: ProportionTotals) -> bayesian.BetaPosterior:
    return bayesian.BetaPosterior.from_totals(total)


def strata(treatment: MeanTotals, control: MeanTotals) -> list[Stratum]:
    return [Stratum(treatment, control), Stratum(control, treatment)]


MOMENTS = MeanTotals.from_observations
TWO_SAMPLE = {
    "Welch": TwoSample(
        MOMENTS,
        lambda t, c, a: means.mean_difference(t, c).interval(alpha=a),
        lambda t, c: means.mean_difference(t, c).test().p_value,
    ),
    "stratified": TwoSample(
        MOMENTS,
        lambda t, c, a: stratification.stratified_difference(
            strata(t, c), weighting="mantel-haenszel"
        ).effect.interval(alpha=a),
    ),
    "post-stratified": TwoSample(
        MOMENTS,
        lambda t, c, a: variance_reduction.post_stratification([Stratum(t, c)]).effect.interval(alpha=a),
    ),
    "difference in differences": TwoSample(
        MOMENTS,
        lambda t, c, a: seasonality.difference_in_differences(
            (MOMENTS(ROWS[0]), t), (MOMENTS(ROWS[0]), c)
        ).interval(alpha=a),
        shifts=True,
        scales=False,
    ),
    "CUPED": TwoSample(
        with_covariate,
        lambda t, c, a: variance_reduction.cuped(t, c).effect.interval(alpha=a),
        lambda t, c: variance_reduction.cuped(t, c).effect.test().p_value,
        scales=False,
        shifts=False,
    ),
    "regression adjustment": TwoSample(
        with_covariate,
        lambda t, c, a: variance_reduction.regression_adjustment(t, c).effect.interval(alpha=a),
        scales=False,
        shifts=False,
    ),
    "ratio, delta method": TwoSample(
        sessions,
        lambda t, c, a: ratios.ratio_difference(t, c).interval(alpha=a),
        lambda t, c: ratios.ratio_difference(t, c).test().p_value,
        scales=False,
        shifts=False,
    ),
    "log ratio": TwoSample(
        MOMENTS,
        lambda t, c, a: relative.log_ratio(means.mean(t), means.mean(c)).interval(alpha=a),
        scales=False,
        shifts=False,
    ),
    "Newcombe": TwoSample(
        successes,
        lambda t, c, a: proportions.newcombe_interval(t, c, alpha=a),
        scales=False,
        shifts=False,
    ),
    "score": TwoSample(
        successes,
        lambda t, c, a: proportions.score_interval(t, c, alpha=a),
        lambda t, c: proportions.score_test(t, c, variance="miettinen-nurminen").p_value,
        scales=False,
        shifts=False,
    ),
    "log risk ratio": TwoSample(
        successes,
        lambda t, c, a: logarithms(relative.risk_ratio_interval(t, c, alpha=a), 1.0),
        scales=False,
        shifts=False,
    ),
    "log rate ratio": TwoSample(
        events,
        lambda t, c, a: logarithms(counts.rate_ratio_interval(t, c, alpha=a), 0.0),
        lambda t, c: counts.rate_ratio_test(t, c).p_value,
        scales=False,
        shifts=False,
    ),
    "rate difference": TwoSample(
        events,
        lambda t, c, a: counts.rate_difference_interval(t, c, alpha=a),
        scales=False,
        shifts=False,
    ),
    "log ratio of rare events, sequence": TwoSample(
        events,
        lambda t, c, a: logarithms(
            sequential_counts.ratio_sequence(
                [EventCounts(c.events, t.events, t.exposure / (t.exposure + c.exposure))],
                alpha=a,
                expected_ratio=1.5,
            ),
            0.0,
        ),
        lambda t, c: (
            sequential_counts.ratio_evalue(
                [EventCounts(c.events, t.events, t.exposure / (t.exposure + c.exposure))],
                expected_ratio=1.5,
                alternative="two-sided",
            ).p_value
        ),
        scales=False,
        shifts=False,
    ),
    "quantiles": TwoSample(
        sketch,
        lambda t, c, a: quantiles.quantile_difference_interval(t, c, 0.5, alpha=a),
        scales=False,
        shifts=False,
    ),
    "quantile sequence": TwoSample(
        sketch,
        lambda t, c, a: quantiles.quantile_difference_sequence(t, c, 0.5, alpha=a, tuned_to=1_000),
        scales=False,
        shifts=False,
    ),
    "sequence": TwoSample(
        MOMENTS,
        lambda t, c, a: sequences.difference_sequence(contrast(t, c), alpha=a, tuned_to=500),
    ),
    "exact sequence": TwoSample(
        within_unit,
        lambda t, c, a: bounded.bounded_difference_sequence(c, t, alpha=a, tuned_to=1_000),
        scales=False,
        shifts=False,
    ),
    "AIPW": TwoSample(
        MOMENTS,
        lambda t, c, a: adaptive.adaptive_difference(period(c, t), period(t, c)).interval(alpha=a),
        scales=False,
        shifts=False,
    ),
    "AIPW sequence": TwoSample(
        MOMENTS,
        lambda t, c, a: adaptive.difference_sequence(period(c, t), period(t, c), alpha=a, tuned_to=1_000),
        scales=False,
        shifts=False,
    ),
    "Beta posteriors": TwoSample(
        successes,
        lambda t, c, a: posterior(t).difference_interval(posterior(c), alpha=a),
        scales=False,
        shifts=False,
    ),
}
ALL = pytest.mark.parametrize("method", TWO_SAMPLE.values(), ids=TWO_SAMPLE)


def logarithms(interval: Interval, origin: float) -> Interval:
    """Of a relative difference (origin 1) or a ratio (origin 0), on the scale on which swapping mirrors."""
    return Interval(math.log(interval.lower + origin), math.log(interval.upper + origin))


def close(first: Interval, second: Interval, error: float = 1e-6) -> bool:
    return all(
        math.isclose(a, b, rel_tol=error, abs_tol=error)
        for a, b in ((first.lower, second.lower), (first.upper, second.upper))
    )


def arms(method: TwoSample, n: int, m: int, shift: float = SHIFT) -> tuple[Any, Any]:
    return method.total(ROWS[0, :n] + shift), method.total(ROWS[1, :m])


@ALL
@pytest.mark.parametrize("sizes", [(3_000, 3_000), (600, 5_400)])
def test_swapping_arms_mirrors_the_interval(method, sizes):
    treatment, control = arms(method, *sizes)
    found, mirrored = method.interval(treatment, control, 0.05), method.interval(control, treatment, 0.05)
    assert close(found, Interval(-mirrored.upper, -mirrored.lower))
    assert found.lower < found.upper


@ALL
@settings(max_examples=8, deadline=None)
@given(cut=st.integers(1, 2_999))
def test_merged_totals_say_what_all_the_observations_say(method, cut):
    values = ROWS[0, :3_000] + SHIFT
    merged = method.total(values[:cut]) + method.total(values[cut:])
    if isinstance(merged, CountTotals):  # Events are rounded down in each part.
        merged = CountTotals(events(values).events, merged.exposure)
    other = method.total(ROWS[1, :3_000])
    assert close(method.interval(merged, other, 0.05), method.interval(method.total(values), other, 0.05))


@ALL
def test_a_smaller_alpha_is_wider(method):
    treatment, control = arms(method, 3_000, 3_000)
    found = [method.interval(treatment, control, alpha) for alpha in (0.5, 0.2, 0.05, 1e-3, 1e-6, 1e-12)]
    for narrow, wide in itertools.pairwise(found):
        assert wide.lower <= narrow.lower
        assert narrow.upper <= wide.upper
    assert found[-1].lower < found[0].lower
    assert found[0].upper < found[-1].upper


@ALL
def test_an_equal_arm_is_never_told_from_itself(method):
    treatment, _ = arms(method, 3_000, 3_000)
    found = method.interval(treatment, treatment, 0.05)
    assert found.lower < 0 < found.upper


@pytest.mark.parametrize("method", [m for m in TWO_SAMPLE.values() if m.scales])
@pytest.mark.parametrize("factor", [1e-9, 7.0, 1e9])
def test_another_unit_of_measurement_is_the_same_interval_in_it(method, factor):
    treatment, control = ROWS[0, :3_000] + SHIFT, ROWS[1, :2_000]
    plain = method.interval(method.total(treatment), method.total(control), 0.05)
    scaled = method.interval(method.total(factor * treatment), method.total(factor * control), 0.05)
    assert close(Interval(scaled.lower / factor, scaled.upper / factor), plain)


@pytest.mark.parametrize("method", [m for m in TWO_SAMPLE.values() if m.shifts])
def test_what_is_added_to_everybody_changes_nothing(method):
    treatment, control = ROWS[0, :3_000] + SHIFT, ROWS[1, :2_000]
    plain = method.interval(method.total(treatment), method.total(control), 0.05)
    moved = method.interval(method.total(treatment + 1e6), method.total(control + 1e6), 0.05)
    assert close(moved, plain)


@pytest.mark.parametrize(
    "method", [m for m in TWO_SAMPLE.values() if m.test], ids=[k for k, m in TWO_SAMPLE.items() if m.test]
)
@settings(max_examples=15, deadline=None)
@given(shift=st.floats(-0.5, 0.5), size=st.integers(300, 3_000))
def test_a_test_decides_as_its_interval_excludes_zero(method, shift, size):
    treatment, control = method.total(ROWS[0, :size] + shift), method.total(ROWS[1, :1_500])
    p_value = method.test(treatment, control)
    for alpha in (0.01, 0.05, 0.3):
        if abs(p_value - alpha) > 1e-6:
            found = method.interval(treatment, control, alpha)
            assert (p_value < alpha) == (found.lower > 0 or found.upper < 0)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_an_e_value_decides_as_its_sequence_excludes_the_null(alternative):
    for shift in np.linspace(-0.4, 0.4, 33):
        found = contrast(MOMENTS(ROWS[0] + shift), MOMENTS(ROWS[1]))
        rho = mixture.tuned(500, alpha=0.05, alternative=alternative)
        interval = sequences.difference_sequence(found, alpha=0.05, tuned_to=500, alternative=alternative)
        excluded = interval.lower > 0 or interval.upper < 0
        assert found.evalue(rho=rho, alternative=alternative).rejects(0.05) == excluded


# --- Everything that takes an alpha ---

ONE = MOMENTS(ROWS[0])
OTHER = MOMENTS(ROWS[1])
SOME = ProportionTotals(1_000, 120)
FEW = ProportionTotals(900, 90)
TALLY = CountTotals(40, 100.0)
SKETCH = sketch(ROWS[0])
EFFECTS = [Estimate(0.5, 0.1), Estimate(0.0, 0.2)]
PERIODS = period(OTHER, ONE), period(ONE, OTHER)
UNIT_PERIODS = [adaptive.ArmPeriod.constant(4_000, 0.5, MeanTotals(2_000, 0.3, 420.0))]
ONE_SIDED = one_sided.OneSided.of((OTHER, ONE), relative=True)
RNG = np.random.default_rng(1)

TAKES_ALPHA: dict[str, Callable[[float], object]] = {
    **{
        name: lambda a, m=method: m.interval(*arms(m, 3_000, 3_000), a) for name, method in TWO_SAMPLE.items()
    },
    "Estimate.interval": lambda a: EFFECTS[0].interval(alpha=a),
    "Estimate.lower_bound": lambda a: EFFECTS[0].lower_bound(alpha=a),
    "Estimate.upper_bound": lambda a: EFFECTS[0].upper_bound(alpha=a),
    "AdaptiveEstimate.interval": lambda a: adaptive.AdaptiveEstimate(0.0, 1.0).interval(alpha=a),
    "beta_interval": lambda a: beta_interval(2, 3, level=1 - a),
    "wilson_interval": lambda a: proportions.wilson_interval(SOME, alpha=a),
    "exact_interval": lambda a: proportions.exact_interval(SOME, alpha=a),
    "rate_interval": lambda a: counts.rate_interval(TALLY, alpha=a),
    "fieller_interval": lambda a: relative.fieller_interval(means.mean(ONE), means.mean(OTHER), alpha=a),
    "quantile_interval": lambda a: quantiles.quantile_interval(SKETCH, 0.5, alpha=a),
    "quantile_sequence": lambda a: quantiles.quantile_sequence(SKETCH, 0.5, alpha=a, tuned_to=100),
    "mixture.boundary": lambda a: mixture.boundary(1.0, alpha=a, rho=1.0),
    "mixture.tuned": lambda a: mixture.tuned(1.0, alpha=a),
    "sequences.radius": lambda a: sequences.radius(1.0, 1.0, alpha=a, tuned_to=1.0),
    "normal_sequence": lambda a: sequences.normal_sequence(0.0, 1.0, alpha=a, tuned_to=1.0),
    "mean_sequence": lambda a: sequences.mean_sequence(ONE, alpha=a, tuned_to=1_000),
    "relative_difference_sequence": lambda a: sequences.relative_difference_sequence(
        contrast(ONE, OTHER), alpha=a, tuned_to=1_000
    ),
    "units_to_tell": lambda a: sequences.units_to_tell(0.1, 1.0, alpha=a),
    "bounded_sequence": lambda a: bounded.bounded_sequence(SOME, alpha=a, tuned_to=100),
    "bounded_sequence of nothing": lambda a: bounded.bounded_sequence(MeanTotals(), alpha=a, tuned_to=100),
    "BernsteinSums": lambda a: bounded.BernsteinSums(10, 5.0, 2.5).interval(alpha=a, tuned_to=100),
    "BernsteinSums one-sided": lambda a: bounded.BernsteinSums().interval(
        alpha=a, tuned_to=100, alternative="greater"
    ),
    "HedgedCapital.after": lambda a: bounded.HedgedCapital.start(10).after([0.5], alpha=a),
    "HedgedCapital.interval": lambda a: (
        bounded.HedgedCapital.start(10).after([0.5], alpha=0.05).interval(alpha=a)
    ),
    "gamma_boundary": lambda a: bounded.gamma_boundary(1.0, alpha=a, rho=1.0),
    "importance_sequence": lambda a: adaptive.importance_sequence(
        UNIT_PERIODS, alpha=a, tuned_to=100, expected_variance=1.0
    ),
    "OneSided.bound": lambda a: ONE_SIDED.bound("greater", alpha=a, rho=1.0),
    "EValue.rejects": lambda a: eprocess.EValue(1.0).rejects(a),
    "Yeast": yeast.Yeast,
    "GroupSequentialPlan": group_sequential.GroupSequentialPlan,
    "spent": lambda a: group_sequential.spent(0.5, alpha=a, spending="obrien-fleming"),
    "WaldLimits": lambda a: sprt.WaldLimits(a, 1e-9),
    "BetaPosterior.interval": lambda a: bayesian.BetaPosterior(2, 3).interval(alpha=a),
    "NormalPosterior.interval": lambda a: bayesian.NormalPosterior(0, 1).interval(alpha=a),
    "e_benjamini_hochberg": lambda a: multiplicity.e_benjamini_hochberg([10.0, 2.0], alpha=a),
    "simultaneous_intervals": lambda a: multiplicity.simultaneous_intervals(
        EFFECTS, alpha=a, correction="holm"
    ),
    "family_findings": lambda a: multiplicity.family_findings([], alpha=a, correction="holm"),
    "noise_floor": lambda a: aa.noise_floor(ONE, alpha=a),
    "uniformity": lambda a: aa.uniformity(np.linspace(0.01, 0.99, 99), alpha=a),
    "cluster_bootstrap": lambda a: agreement.cluster_bootstrap(
        lambda at: float(at.mean()), np.arange(20), alpha=a, resamples=100, rng=RNG
    ),
    "control_limits": lambda a: seasonality.control_limits(ONE, false_alarm=a / 2),
    "Plan": lambda a: planning.Plan(planning.MeanOutcome(1.0), a, 1 - 1e-15),
}


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.05, 1.5, math.nan, math.inf])
@pytest.mark.parametrize("ask", TAKES_ALPHA.values(), ids=TAKES_ALPHA)
def test_what_is_no_alpha_is_refused(ask, alpha):
    with pytest.raises(InvalidInput):
        ask(alpha)


@pytest.mark.parametrize("alpha", [1e-15, 0.05, 0.999])
@pytest.mark.parametrize("ask", TAKES_ALPHA.values(), ids=TAKES_ALPHA)
def test_an_extreme_alpha_has_an_answer_or_needs_more_data(ask, alpha):
    try:
        found = ask(alpha)
    except InsufficientData:
        return
    for bounds in found if isinstance(found, tuple) else (found,):
        if isinstance(bounds, Interval):
            assert bounds.lower <= bounds.upper


# --- Too little, and much ---

NOTHING = MeanTotals()
SINGLE = MeanTotals(1, 2.0, 0.0)
NO_SPREAD = MeanTotals(50, 2.0, 0.0)
BILLION = ProportionTotals(10**9, 10**8)
NEVER = ProportionTotals(500, 0)
ALWAYS = ProportionTotals(500, 500)
TOO_LITTLE: dict[str, Callable[[], object]] = {
    "mean of one": lambda: means.mean(SINGLE),
    "difference, one arm empty": lambda: means.mean_difference(ONE, NOTHING),
    "difference, one unit": lambda: means.mean_difference(ONE, SINGLE),
    "difference without spread": lambda: means.mean_difference(NO_SPREAD, NO_SPREAD),
    "wilson of nothing": lambda: proportions.wilson_interval(ProportionTotals(), alpha=0.05),
    "exact of nothing": lambda: proportions.exact_interval(ProportionTotals(), alpha=0.05),
    "newcombe, one arm empty": lambda: proportions.newcombe_interval(SOME, ProportionTotals(), alpha=0.05),
    "score interval, one arm empty": lambda: proportions.score_interval(SOME, ProportionTotals(), alpha=0.05),
    "score test, one arm empty": lambda: proportions.score_test(SOME, ProportionTotals()),
    "score test without conversions": lambda: proportions.score_test(NEVER, NEVER),
    "score test of conversions only": lambda: proportions.score_test(ALWAYS, ALWAYS),
    "Fisher without conversions": lambda: counts.fisher_test(NEVER, NEVER),
    "Fisher of conversions only": lambda: counts.fisher_test(ALWAYS, ALWAYS),
    "risk ratio to nothing": lambda: relative.risk_ratio_interval(SOME, NEVER, alpha=0.05),
    "rate ratio without events": lambda: counts.rate_ratio_test(CountTotals(0, 1.0), CountTotals(0, 1.0)),
    "rate ratio without exposure": lambda: counts.rate_ratio_test(TALLY, CountTotals()),
    "rate without exposure": lambda: counts.rate_interval(CountTotals(), alpha=0.05),
    "Fieller to zero": lambda: relative.fieller_interval(EFFECTS[0], Estimate(0.1, 1.0), alpha=0.05),
    "log ratio to zero": lambda: relative.log_ratio(EFFECTS[0], Estimate(0.1, 1.0)),
    "ratio of one": lambda: ratios.ratio(JointTotals(1, (1.0, 2.0), (0.0, 0.0, 0.0))),
    "ratio of nothing": lambda: ratios.ratio(JointTotals.none(2)),
    "CUPED of one": lambda: variance_reduction.cuped(
        JointTotals(1, (1.0, 2.0), (0.0,) * 3), JointTotals(1, (1.0, 2.0), (0.0,) * 3)
    ),
    "quantile of nothing": lambda: quantiles.quantile(quantiles.QuantileSketch(0.01), 0.5),
    "quantile interval of one": lambda: quantiles.quantile_interval(sketch(ROWS[0, :1]), 0.5, alpha=0.05),
    "quantile sequence of nothing": lambda: quantiles.quantile_sequence(
        quantiles.QuantileSketch(0.01), 0.5, alpha=0.05, tuned_to=100
    ),
    "mean sequence of one": lambda: sequences.mean_sequence(SINGLE, alpha=0.05, tuned_to=100),
    "contrast, one arm empty": lambda: sequences.Contrast.of((ONE, NOTHING)),
    "contrast without strata": sequences.Contrast.of,
    "contrast without spread": lambda: sequences.Contrast.of(
        (MeanTotals(500, 2.0, 0.0), MeanTotals(500, 2.0, 0.0))
    ),
    "one-sided, one arm empty": lambda: one_sided.OneSided.of((ONE, NOTHING), relative=False),
    "events of nothing": lambda: sequential_counts.ratio_sequence([], alpha=0.05, expected_ratio=2.0),
    "likeliest ratio, one arm without": lambda: sequential_counts.likeliest_ratio([EventCounts(0, 3, 0.5)]),
    "adaptive mean of nothing": lambda: adaptive.adaptive_mean([]),
    "adaptive mean of few": lambda: adaptive.adaptive_mean(period(SINGLE, SINGLE)),
    "strata of nothing": lambda: stratification.stratified_difference([], weighting="sample-share"),
    "interaction of one": lambda: heterogeneity.interaction_test(EFFECTS[:1]),
    "no interaction": lambda: heterogeneity.partial_pooling([]),
    "sample ratio of nothing": lambda: srm.chi_square([srm.ArmCounts((0, 0), (0.5, 0.5))]),
    "deviations of nothing": lambda: srm.deviations([srm.ArmCounts((0, 0), (0.5, 0.5))]),
    "noise floor of one": lambda: aa.noise_floor(SINGLE),
    "uniformity of few": lambda: aa.uniformity([0.5]),
    "kappa of nothing": lambda: agreement.cohen_kappa(np.zeros((2, 2), dtype=np.int64)),
    "kappa of one category": lambda: agreement.cohen_kappa(np.array([[9, 0], [0, 0]])),
    "alpha of one value": lambda: agreement.krippendorff_alpha(np.ones((9, 2)), scale="nominal"),
    "alpha of nothing": lambda: agreement.krippendorff_alpha(np.full((9, 2), np.nan), scale="interval"),
    "labels of nobody": lambda: prediction_powered.prediction_powered_mean(
        prediction_powered.JudgedTotals(JointTotals.none(4), 0)
    ),
    "control limits of one": lambda: seasonality.control_limits(SINGLE, false_alarm=0.01),
    "baseline of nothing": lambda: seasonality.fit_baseline(
        np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    ),
    "series without spread": lambda: seasonality.series_mean(np.ones(30)),
    "series of few": lambda: synthetic_control.synthetic_control(np.ones(5), np.ones((5, 1)), n_before=2),
    "series without movement": lambda: synthetic_control.synthetic_control(
        np.ones(20), np.ones((20, 1)), n_before=10
    ),
}


@pytest.mark.parametrize("ask", TOO_LITTLE.values(), ids=TOO_LITTLE)
def test_too_little_data_is_no_answer(ask):
    with pytest.raises(InsufficientData):
        ask()


NONSENSE: dict[str, Callable[[float], object]] = {
    "MeanTotals": lambda bad: MeanTotals(3, bad, 1.0),
    "MeanTotals.m2": lambda bad: MeanTotals(3, 1.0, bad),
    "MeanTotals.from_sums": lambda bad: MeanTotals.from_sums(3, bad, 1.0),
    "MeanTotals.from_sums of squares": lambda bad: MeanTotals.from_sums(3, 1.0, bad),
    "MeanTotals.from_observations": lambda bad: MOMENTS(np.array([1.0, bad])),
    "JointTotals": lambda bad: JointTotals(3, (1.0, bad), (1.0, 0.0, 1.0)),
    "JointTotals.from_sums": lambda bad: JointTotals.from_sums(3, [1.0, bad], [1.0, 0.0, 1.0]),
    "JointTotals.from_observations": lambda bad: JointTotals.from_observations(np.array([[1.0, bad]])),
    "CountTotals": lambda bad: CountTotals(1, bad),
    "ProportionTotals": lambda bad: ProportionTotals(10, bad),
    "Estimate": lambda bad: Estimate(bad, 1.0),
    "Estimate.standard_error": lambda bad: Estimate(0.0, bad),
    "Estimate.test": lambda bad: EFFECTS[0].test(null=bad),
    "score_test": lambda bad: proportions.score_test(SOME, FEW, null=bad),
    "rate_ratio_test": lambda bad: counts.rate_ratio_test(TALLY, TALLY, null=bad),
    "QuantileSketch": lambda bad: sketch(np.array([1.0, bad])),
    "quantile": lambda bad: quantiles.quantile(SKETCH, bad),
    "design effect": lambda bad: quantiles.quantile_interval(SKETCH, 0.5, alpha=0.05, design_effect=bad),
    "tuned_to": lambda bad: bounded.bounded_sequence(SOME, alpha=0.05, tuned_to=bad),
    "rho": lambda bad: mixture.boundary(1.0, alpha=0.05, rho=bad),
    "MixtureSprt": mixture.MixtureSprt,
    "MixtureSprt.evalue": lambda bad: mixture.MixtureSprt(1.0).evalue(bad, 1.0),
    "normal_sequence": lambda bad: sequences.normal_sequence(bad, 1.0, alpha=0.05, tuned_to=1.0),
    "BernsteinSums": lambda bad: bounded.BernsteinSums(3, bad, 0.0),
    "HedgedCapital": lambda bad: bounded.HedgedCapital.start(10).after([bad], alpha=0.05),
    "ArmPeriod.event": lambda bad: adaptive.ArmPeriod.event(bad, propensity=0.5, share=0.5),
    "ArmPeriod propensity": lambda bad: adaptive.ArmPeriod.event(1.0, propensity=bad, share=0.5),
    "ArmPeriod.constant": lambda bad: adaptive.ArmPeriod.constant(10, bad, SINGLE),
    "AdaptiveEstimate first guess": lambda bad: adaptive.adaptive_mean(PERIODS[0], first_guess=bad),
    "EventCounts": lambda bad: EventCounts(1, 1, bad),
    "ratio_evalue": lambda bad: sequential_counts.ratio_evalue([], ratio=bad, expected_ratio=2.0),
    "expected_ratio": lambda bad: sequential_counts.ratio_sequence(
        [EventCounts(1, 1, 0.5)], alpha=0.05, expected_ratio=bad
    ),
    "ArmCounts": lambda bad: srm.ArmCounts((1, 1), (bad, 0.5)),
    "Yeast.statistic": lambda bad: yeast.Yeast(0.05).statistic(bad, 0.5),
    "Yeast fraction": lambda bad: yeast.Yeast(0.05).statistic(1.0, bad),
    "spent": lambda bad: group_sequential.spent(bad, alpha=0.05, spending="pocock"),
    "fractions": lambda bad: group_sequential.GroupSequentialPlan(0.05).boundaries([0.5, bad]),
    "adjusted p": lambda bad: group_sequential.GroupSequentialPlan(0.05).adjusted_p_value(bad, [0.5, 1.0]),
    "NormalSprt": lambda bad: sprt.NormalSprt(0.0, bad, 1.0, sprt.WaldLimits(0.05, 0.05)),
    "BernoulliSprt": lambda bad: sprt.BernoulliSprt(bad, (0.5,), sprt.WaldLimits(0.05, 0.05)),
    "TwoArmSprt": lambda bad: sprt.TwoArmSprt(bad, sprt.WaldLimits(0.05, 0.05)),
    "BetaPosterior": lambda bad: bayesian.BetaPosterior(bad, 1.0),
    "NormalPosterior": lambda bad: bayesian.NormalPosterior(bad, 1.0),
    "beta_interval": lambda bad: beta_interval(bad, 1.0),
    "adjusted_p_values": lambda bad: multiplicity.adjusted_p_values([bad], correction="holm"),
    "judge": lambda bad: prediction_powered.JudgedTotals.from_observations(
        np.array([bad, 1.0]), np.array([1.0, 0.0]), np.ones(2)
    ),
    "inclusion": lambda bad: prediction_powered.JudgedTotals.from_observations(
        np.ones(2), np.ones(2), np.array([bad, 1.0])
    ),
    "series": lambda bad: seasonality.series_mean(np.array([1.0, 2.0, 1.0, 3.0, bad])),
    "donors": lambda bad: synthetic_control.covariate_series(
        np.append(np.arange(19.0), bad), np.ones((20, 1)), n_before=10
    ),
    "values of an A/A": lambda bad: aa.false_positive_rate(
        [1.0, bad], lambda c, t: True, looks=[2], replays=1, rng=RNG
    ),
    "MeanOutcome": planning.MeanOutcome,
    "units": lambda bad: planning.power(planning.Plan(planning.MeanOutcome(1.0), 0.05, 0.8), 0.1, bad),
    "effect": lambda bad: planning.sample_size(planning.Plan(planning.MeanOutcome(1.0), 0.05, 0.8), bad),
}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("ask", NONSENSE.values(), ids=NONSENSE)
def test_what_is_not_finite_is_refused(ask, bad):
    with pytest.raises(InvalidInput):
        ask(bad)


def much() -> Iterator[tuple[str, Callable[[], object]]]:
    """Methods on a billion units, in cases where a sum over them would never end."""
    half, most = ProportionTotals(10**9, 5 * 10**8), ProportionTotals(10**9, 9 * 10**8)
    yield "Fisher, far apart", lambda: counts.fisher_test(most, BILLION)
    yield "Fisher, far apart, less", lambda: counts.fisher_test(BILLION, most, alternative="less")
    yield "Fisher, equal", lambda: counts.fisher_test(half, half)
    yield "score test, far apart", lambda: proportions.score_test(most, BILLION)
    yield "rates, far apart", lambda: counts.rate_ratio_test(CountTotals(10**9, 1.0), CountTotals(10**8, 1.0))
    yield "Welch, far apart", lambda: means.mean_difference(most.moments, BILLION.moments).test()
    yield (
        "sample ratio, far off",
        lambda: srm.chi_square([srm.ArmCounts((10**9, 9 * 10**8), (0.5, 0.5))]),
    )


@pytest.mark.parametrize("ask", [ask for _, ask in much()], ids=[name for name, _ in much()])
def test_a_billion_units_have_a_logarithm_of_their_p_value(ask):
    found = ask()
    assert -math.inf < found.log_p_value <= 0
    assert 0 < found.p_value <= 1


@pytest.mark.parametrize(
    "interval",
    [
        lambda: proportions.newcombe_interval(BILLION, BILLION, alpha=0.05),
        lambda: proportions.score_interval(BILLION, BILLION, alpha=0.05),
        lambda: means.mean_difference(BILLION.moments, BILLION.moments).interval(alpha=0.05),
        lambda: bayesian.BetaPosterior.from_totals(BILLION).difference_interval(
            bayesian.BetaPosterior.from_totals(BILLION), alpha=0.05
        ),
    ],
)
def test_identical_arms_of_a_billion_units_differ_by_at_most_their_error(interval):
    """1.96 sqrt(2 * 0.1 * 0.9 / 10^9) = 2.63e-5."""
    found = interval()
    assert found.lower == pytest.approx(-2.6296e-5, rel=1e-3)
    assert found.upper == pytest.approx(2.6296e-5, rel=1e-3)
