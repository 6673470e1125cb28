"""Too little data, or totals that mean nothing, raise; they are never an interval of zero width or p = 1."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from stats import (
    aa,
    adaptive,
    agreement,
    bounded,
    group_sequential,
    heterogeneity,
    means,
    mixture,
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
    yeast,
)
from stats.adaptive import ArmPeriod
from stats.bounded import bounded_sequence
from stats.eprocess import AlwaysValid, EValue
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.group_sequential import GroupSequentialPlan
from stats.interval import beta_interval
from stats.mixture import MixtureSprt
from stats.sequential_counts import EventCounts
from stats.sprt import BernoulliSprt, NormalSprt, WaldLimits
from stats.srm import ArmCounts
from stats.totals import JointTotals, MeanTotals, ProportionTotals
from stats.yeast import Yeast
from tests.stats.methods import EFFECTS, MOMENTS, ONE, OTHER, ROWS, SKETCH, SOME, period, sketch

FEW = ProportionTotals(900, 90)
PERIODS = period(OTHER, ONE), period(ONE, OTHER)
RNG = np.random.default_rng(1)

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
    "exact of nothing": lambda: proportions.exact_interval(ProportionTotals(), alpha=0.05),
    "score interval, one arm empty": lambda: proportions.score_interval(SOME, ProportionTotals(), alpha=0.05),
    "score test, one arm empty": lambda: proportions.score_test(SOME, ProportionTotals()),
    "score test without conversions": lambda: proportions.score_test(NEVER, NEVER),
    "score test of conversions only": lambda: proportions.score_test(ALWAYS, ALWAYS),
    "risk ratio to nothing": lambda: relative.risk_ratio_interval(SOME, NEVER, alpha=0.05),
    "Fieller to zero": lambda: relative.fieller_interval(EFFECTS[0], Estimate(0.1, 1.0), alpha=0.05),
    "ratio of one": lambda: means.mean(ratios.ratio_parts(JointTotals(1, (1.0, 2.0), (0.0, 0.0, 0.0)))),
    "ratio of nothing": lambda: ratios.ratio_parts(JointTotals.none(2)),
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
    "kappa of nothing": lambda: agreement.cohen_kappa(np.zeros((2, 2), dtype=np.int64)),
    "kappa of one category": lambda: agreement.cohen_kappa(np.array([[9, 0], [0, 0]])),
    "alpha of one value": lambda: agreement.krippendorff_alpha(np.ones((9, 2)), scale="nominal"),
    "alpha of nothing": lambda: agreement.krippendorff_alpha(np.full((9, 2), np.nan), scale="interval"),
    "labels of nobody": lambda: prediction_powered.prediction_powered_mean(
        prediction_powered.JudgedTotals.none()
    ),
    "baseline of nothing": lambda: seasonality.fit_baseline(
        np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
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
    "ProportionTotals": lambda bad: ProportionTotals(10, bad),
    "Estimate": lambda bad: Estimate(bad, 1.0),
    "Estimate.standard_error": lambda bad: Estimate(0.0, bad),
    "Estimate.test": lambda bad: EFFECTS[0].test(null=bad),
    "score_test": lambda bad: proportions.score_test(SOME, FEW, null=bad),
    "QuantileSketch": lambda bad: sketch(np.array([1.0, bad])),
    "quantile": lambda bad: quantiles.quantile(SKETCH, bad),
    "tuned_to": lambda bad: bounded.bounded_sequence(SOME, alpha=0.05, tuned_to=bad),
    "rho": lambda bad: mixture.boundary(1.0, alpha=0.05, rho=bad),
    "MixtureSprt": mixture.MixtureSprt,
    "MixtureSprt.evalue": lambda bad: mixture.MixtureSprt(1.0).evalue(bad, 1.0),
    "normal_sequence": lambda bad: sequences.normal_sequence(bad, 1.0, alpha=0.05, tuned_to=1.0),
    "BernsteinSums": lambda bad: bounded.BernsteinSums(3, bad, 0.0),
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
    "beta_interval": lambda bad: beta_interval(bad, 1.0),
    "judging": lambda bad: prediction_powered.JudgedTotals.from_observations(
        np.ones(2), np.ones(2), np.ones(2), judging=np.array([bad, 1.0])
    ),
    "inclusion": lambda bad: prediction_powered.JudgedTotals.from_observations(
        np.ones(2), np.ones(2), np.array([bad, 1.0])
    ),
    "MeanOutcome": planning.MeanOutcome,
    "units": lambda bad: planning.power(planning.Plan(planning.MeanOutcome(1.0), 0.05, 0.8), 0.1, bad),
    "effect": lambda bad: planning.sample_size(planning.Plan(planning.MeanOutcome(1.0), 0.05, 0.8), bad),
}


@pytest.mark.parametrize("ask", NONSENSE.values(), ids=NONSENSE)
def test_what_is_not_finite_is_refused(ask):
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(InvalidInput):
            ask(bad)


def much() -> Iterator[tuple[str, Callable[[], object]]]:
    """Methods on a billion units, in cases where a sum over them would never end."""
    most = ProportionTotals(10**9, 9 * 10**8)
    yield "score test, far apart", lambda: proportions.score_test(most, BILLION)
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
        lambda: proportions.score_interval(BILLION, BILLION, alpha=0.05),
        lambda: means.mean_difference(BILLION.moments, BILLION.moments).interval(alpha=0.05),
    ],
)
def test_identical_arms_of_a_billion_units_differ_by_at_most_their_error(interval):
    """1.96 sqrt(2 * 0.1 * 0.9 / 10^9) = 2.63e-5."""
    found = interval()
    assert found.lower == pytest.approx(-2.6296e-5, rel=1e-3)
    assert found.upper == pytest.approx(2.6296e-5, rel=1e-3)


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
    ],
)
def test_what_means_nothing_is_refused(make):
    with pytest.raises(InvalidInput):
        make()
