"""Series, plans, judged samples and agreement."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.inter_rater import fleiss_kappa as statsmodels_fleiss_kappa
from statsmodels.stats.power import NormalIndPower

from benchmarks import calibrate_fixed as calibrate
from stats.agreement import cluster_bootstrap, cohen_kappa, fleiss_kappa, gwet_ac1, krippendorff_alpha
from stats.errors import InsufficientData, InvalidInput
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
from stats.prediction_powered import JudgedTotals, prediction_powered_mean
from stats.seasonality import (
    control_limits,
    difference_in_differences,
    false_alarm_rate,
    fit_baseline,
    paired_difference_in_differences,
    series_mean,
)
from stats.synthetic_control import covariate_series, synthetic_control
from stats.totals import JointTotals, MeanTotals

NAN = math.nan


def bounds(interval):
    return interval.lower, interval.upper


@pytest.mark.parametrize(("n", "rate"), [(12, 0.0075), (60, 0.0021), (288, 0.0015), (10**9, 0.00135)])
def test_three_deviations_raise_the_false_alarms_that_are_known(n, rate):
    assert false_alarm_rate(n) == pytest.approx(rate, abs=5e-5)


def test_the_worked_series_hold():
    assert false_alarm_rate(2) == pytest.approx(0.5 - math.atan(3 / math.sqrt(1.5)) / math.pi)
    limits = control_limits(MeanTotals(2, 1.0, 2.0), false_alarm=0.25)
    assert bounds(limits) == pytest.approx((1 - math.sqrt(3), 1 + math.sqrt(3)))
    groups = [MeanTotals(10, mean, 9.0) for mean in (10.0, 15.0, 10.0, 12.0)]
    effect = difference_in_differences((groups[0], groups[1]), (groups[2], groups[3]))
    assert (effect.value, effect.standard_error) == pytest.approx((3, math.sqrt(0.4)))
    treated = JointTotals.from_observations(np.array([[5.0, 6.0], [1.0, 4.0]]))
    control = JointTotals.from_observations(np.array([[5.0, 5.0], [1.0, 3.0]]))
    paired = paired_difference_in_differences(treated, control)
    assert (paired.value, paired.degrees_of_freedom) == pytest.approx((1, 2))


def test_a_baseline_finds_the_shape_of_day_and_week():
    time = np.arange(24 * 28)
    hours, weekdays = time % 24, (time // 24) % 7
    rng = np.random.default_rng(20260101 + 20)
    shape = 10 + np.sin(2 * np.pi * hours / 24) - 2.0 * (weekdays == 6)
    baseline = fit_baseline(shape + 0.1 * rng.normal(size=len(time)), hours, weekdays)
    assert baseline.expected(6, 0) == pytest.approx(11, abs=0.08)
    assert baseline.expected(6, 6) == pytest.approx(9, abs=0.08)
    assert baseline.sd == pytest.approx(0.1, rel=0.1)
    assert sum(baseline.hours) == pytest.approx(0, abs=1e-9)
    limits = baseline.limits(6, 0, false_alarm=0.00135)
    assert limits.lower == pytest.approx(11 - 0.3, abs=0.12)


def test_times_never_observed_have_no_normal_level():
    time = np.arange(48)
    values = np.random.default_rng(20260101 + 21).normal(size=48)
    baseline = fit_baseline(values, time % 12, (time // 24) % 7)
    assert baseline.hours[13] is None
    with pytest.raises(InsufficientData, match="never observed"):
        baseline.limits(13, 0, false_alarm=0.01)
    with pytest.raises(InvalidInput):
        baseline.expected(24, 0)
    with pytest.raises(InvalidInput):
        fit_baseline(values, time, time % 7)
    with pytest.raises(InsufficientData):
        fit_baseline(np.ones(48), time % 12, time % 7)
    with pytest.raises(InsufficientData):
        series_mean(np.array([1.0, 2.0, 3.0]))


def test_donors_that_move_together_reveal_the_effect():
    rng = np.random.default_rng(20260101 + 22)
    donors = 50 + np.cumsum(rng.normal(size=(120, 3)), axis=0)
    treated = 7 + donors @ (0.6, 0.4, 0.0) + 0.2 * rng.normal(size=120)
    treated[80:] += 2
    result = synthetic_control(treated, donors, n_before=80)
    assert result.weights == pytest.approx((0.6, 0.4, 0.0), abs=0.05)
    assert sum(result.weights) == pytest.approx(1)
    assert result.effect.value == pytest.approx(2, abs=0.2)
    assert result.variance_reduction > 0.9
    single = covariate_series(2 * donors[:, 0] + 3.0 * (np.arange(120) >= 80) + 0.1 * rng.normal(size=120),
                              donors[:, :1], n_before=80)  # fmt: skip
    assert (single.weights[0], single.effect.value) == pytest.approx((2, 3), abs=0.15)
    with pytest.raises(InsufficientData):
        synthetic_control(treated, donors, n_before=118)
    with pytest.raises(InvalidInput):
        synthetic_control(treated, donors[:5], n_before=80)


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


# 40 labels of 400 items: means and intervals at alpha 0.05 by ppi-python 0.2.3, ppi_mean_pointestimate and
# ppi_mean_ci, with lam = 0, 0.5, 1; its lam is trust (1 - n / N) here, which counts labelled items as judged.
def judged_items():
    rng = np.random.default_rng(5)
    y = (rng.random(400) < 0.7) * 1.0
    f = np.round(np.clip(0.3 + 0.5 * y + 0.2 * rng.normal(size=400), 0, 1), 2)
    return f, np.where(np.arange(400) < 40, y, NAN), np.full(400, 0.1)


@pytest.mark.parametrize(
    ("lam", "mean", "lower", "upper"),
    [
        (0.0, 0.7, 0.55798712, 0.84201288),
        (0.5, 0.68884722, 0.56912218, 0.80857227),
        (1.0, 0.67769444, 0.57055467, 0.78483422),
    ],
)
def test_prediction_powered_means_agree_with_ppi_python(lam, mean, lower, upper):
    total = JudgedTotals.from_observations(*judged_items())
    ours = prediction_powered_mean(total, trust=lam / 0.9).mean
    assert ours.value == pytest.approx(mean, abs=1e-7)
    # Its variance divides by n, ours by n - 1.
    assert ours.standard_error == pytest.approx((upper - lower) / 2 / 1.959964 * math.sqrt(40 / 39), rel=3e-3)


def test_the_estimated_trust_is_a_regression_slope_and_totals_merge():
    judge, human, inclusion = judged_items()
    total = JudgedTotals.from_observations(judge, human, inclusion)
    parts = [
        JudgedTotals.from_observations(judge[s], human[s], inclusion[s]) for s in (slice(25), slice(25, 400))
    ]
    merged = parts[0] + parts[1]
    ours = prediction_powered_mean(total)
    slope = np.polyfit(judge[:40], human[:40], 1)[0]
    assert ours.trust == pytest.approx(slope, rel=0.1)
    theirs = prediction_powered_mean(total, trust=0.855 / 0.9)  # ppi-python's choice
    assert ours.mean.standard_error <= theirs.mean.standard_error * 39 / 38
    assert prediction_powered_mean(merged).mean.value == pytest.approx(ours.mean.value, rel=1e-12)


def test_unequal_inclusion_probabilities_are_weighed():
    """Items the judge rejects are labelled five times as often: weights cover, a plain mean does not."""
    rng = np.random.default_rng(20260101 + 23)
    runs, covered, plain_covered = 300, 0, 0
    for _ in range(runs):
        y = (rng.random(3_000) < 0.7) * 1.0
        judge = np.where(rng.random(3_000) < 0.85, y, 1 - y)
        inclusion = np.where(judge > 0, 0.05, 0.25)
        human = np.where(rng.random(3_000) < inclusion, y, NAN)
        interval = prediction_powered_mean(
            JudgedTotals.from_observations(judge, human, inclusion)
        ).mean.interval(alpha=0.05)
        covered += interval.lower <= 0.7 <= interval.upper
        flat = JudgedTotals.from_observations(judge, human, np.full(3_000, 0.1))
        interval = prediction_powered_mean(flat, trust=0.0).mean.interval(alpha=0.05)
        plain_covered += interval.lower <= 0.7 <= interval.upper
    least = binom.ppf(1e-6, runs, 0.95)
    assert covered >= least
    assert plain_covered < least  # planted bug


def test_too_few_labels_are_refused():
    judge, human, inclusion = judged_items()
    few = np.where(np.arange(400) < 2, human, NAN)
    with pytest.raises(InsufficientData, match="3 labels"):
        prediction_powered_mean(JudgedTotals.from_observations(judge, few, inclusion))
    with pytest.raises(InvalidInput):
        JudgedTotals.from_observations(judge, human, inclusion * 0)


# Krippendorff (2011), example D: 4 observers, 12 units; by krippendorff 0.9.0 (alpha), irrCAC 0.4.4 (AC1).
OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T
TABLE = np.array([[20, 5, 1], [10, 15, 3], [2, 4, 9]])


@pytest.mark.parametrize(
    ("scale", "alpha"),
    [("nominal", 0.743421052631579), ("ordinal", 0.8153875037548814), ("interval", 0.8491071428571428)],
)
def test_krippendorffs_alpha_has_its_published_value(scale, alpha):
    assert krippendorff_alpha(OBSERVERS, scale=scale).value == pytest.approx(alpha, rel=1e-9)


def test_gwets_coefficient_agrees_with_irrcac():
    counts = np.stack([np.equal(value, OBSERVERS).sum(axis=1) for value in range(1, 6)], axis=1)
    assert gwet_ac1(counts).value == pytest.approx(0.77544, abs=5e-6)


@pytest.mark.parametrize(
    ("weights", "theirs"), [("unweighted", None), ("linear", "linear"), ("quadratic", "quadratic")]
)
def test_cohens_kappa_and_its_error_agree_with_statsmodels(weights, theirs):
    reference = cohens_kappa(TABLE, wt=theirs)
    ours = cohen_kappa(TABLE, weights=weights)
    assert (ours.value, ours.standard_error) == pytest.approx((reference.kappa, reference.std_kappa))


def test_fleiss_kappa_agrees_with_statsmodels_and_the_worked_cases_hold():
    counts = np.random.default_rng(20260101 + 24).multinomial(4, (0.5, 0.3, 0.2), size=40)
    assert fleiss_kappa(counts).value == pytest.approx(statsmodels_fleiss_kappa(counts))
    small = np.array([[2, 0], [0, 2], [1, 1]])
    assert fleiss_kappa(small).value == pytest.approx(1 / 3)
    assert gwet_ac1(small).value == pytest.approx(1 / 3)
    assert krippendorff_alpha(np.array([[1, 1], [2, 2], [1, 2.0]]), scale="nominal").value == pytest.approx(
        4 / 9
    )
    assert cohen_kappa(np.array([[20, 5], [10, 15]])).value == pytest.approx(0.4)


def test_agreement_without_variety_or_items_is_refused():
    with pytest.raises(InsufficientData, match="one category"):
        cohen_kappa(np.array([[9, 0], [0, 0]]))
    with pytest.raises(InsufficientData):
        krippendorff_alpha(np.ones((5, 2)), scale="interval")
    with pytest.raises(InsufficientData):
        krippendorff_alpha(np.ones((2, 2)), scale="nominal")
    with pytest.raises(InvalidInput):
        fleiss_kappa(np.array([[2, 0], [1, 0]]))
    with pytest.raises(InvalidInput):
        cohen_kappa(np.array([[1, 2]]))


def test_clusters_are_resampled_whole():
    """Two raters agree or not for all 20 items of a unit: the error is that of 30 units, not of 600 items."""
    rng = np.random.default_rng(20260101 + 25)
    unit = np.repeat(np.arange(30), 20)
    first = rng.integers(2, size=600)
    second = np.where((rng.random(30) < 0.7)[unit], first, 1 - first)

    def kappa(items):
        table = np.zeros((2, 2), dtype=np.int64)
        np.add.at(table, (first[items], second[items]), 1)
        return cohen_kappa(table).value

    whole = cluster_bootstrap(kappa, unit, alpha=0.05, resamples=200, rng=np.random.default_rng(1))
    single = cluster_bootstrap(kappa, np.arange(600), alpha=0.05, resamples=200, rng=np.random.default_rng(1))
    assert whole.upper - whole.lower > 2.5 * (single.upper - single.lower)
    again = cluster_bootstrap(kappa, unit, alpha=0.05, resamples=200, rng=np.random.default_rng(1))
    assert again == whole
    with pytest.raises(InsufficientData, match="10 clusters"):
        cluster_bootstrap(kappa, unit // 4, alpha=0.05, resamples=200, rng=rng)
