"""Ratios, strata, variance reduction, many metrics, segments."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, false_discovery_control
from statsmodels.stats.meta_analysis import combine_effects

from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.heterogeneity import interaction_test, partial_pooling, segment_readout
from stats.means import mean_difference
from stats.multiplicity import (
    Member,
    adjusted_p_values,
    e_benjamini_hochberg,
    family_findings,
    simultaneous_intervals,
)
from stats.ratios import design_effect, ratio, ratio_difference
from stats.stratification import Stratum, pooled, stratified_difference
from stats.totals import JointTotals, MeanTotals
from stats.totals import ProportionTotals as P
from stats.variance_reduction import cuped, post_stratification, regression_adjustment


def joint(*rows):
    return JointTotals.from_observations(np.array(rows, dtype=float))


def proportions(x, n):
    return P(n, x).moments


def test_the_worked_ratios_hold():
    one = joint((1, 1), (1, 3))
    with pytest.raises(InsufficientData, match="far enough"):
        ratio(one)  # two units do not say that the denominator is not 0
    many = joint(*[(1, 1), (1, 3)] * 50)
    assert ratio(many).value == pytest.approx(0.5)
    assert ratio(many).standard_error == pytest.approx(0.25 / math.sqrt(99))
    assert design_effect(joint((0, 2), (2, 2), (0, 2), (2, 2))) == pytest.approx(8 / 3)


def test_the_clustered_difference_is_cluster_robust_least_squares():
    """Against statsmodels OLS, cov_type="cluster" without its own correction, times G / (G - 1)."""
    rng = np.random.default_rng(20260101 + 7)
    sizes = rng.integers(1, 9, size=80)
    cluster = np.repeat(np.arange(80), sizes)
    treated = (cluster < 40).astype(float)
    y = rng.normal(size=80)[cluster] + rng.normal(size=len(cluster)) + 0.3 * treated
    totals = np.stack([np.bincount(cluster, y), sizes], axis=1)
    arms = JointTotals.from_observations(totals[:40]), JointTotals.from_observations(totals[40:])
    model = sm.OLS(y, sm.add_constant(treated)).fit(
        cov_type="cluster", cov_kwds={"groups": cluster, "use_correction": False}
    )
    effect = ratio_difference(*arms)
    assert effect.value == pytest.approx(model.params[1], rel=1e-10)
    assert effect.standard_error == pytest.approx(model.bse[1] * math.sqrt(40 / 39), rel=1e-10)


def test_the_worked_strata_hold_and_pooling_would_turn_the_effect_around():
    strata = [
        Stratum(proportions(10, 10), proportions(80, 100)),
        Stratum(proportions(5, 50), proportions(1, 20)),
    ]
    result = stratified_difference(strata, weighting="mantel-haenszel")
    assert result.effect.value == pytest.approx(0.1083, abs=1e-4)
    together = pooled(strata)
    assert together.treatment.mean < together.control.mean


@pytest.mark.parametrize("weighting", ["mantel-haenszel", "sample-share", "inverse-variance"])
def test_a_ramp_under_drift_misleads_the_pooled_comparison_and_not_the_stratified_one(weighting):
    """A canary ramps 1, 5, 25 % while everybody's rate drifts from 10 to 20 to 30 %; there is no effect.

    Stratified intervals miss 0 in at most alpha of runs; pooled ones in nearly all.
    """
    rng = np.random.default_rng(20260101 + 8)
    runs, missed, pooled_missed = 300, 0, 0
    for _ in range(runs):
        strata = []
        for share, rate in ((0.01, 0.1), (0.05, 0.2), (0.25, 0.3)):
            n = (int(20_000 * share), int(20_000 * (1 - share)))
            x = rng.binomial(n, rate)
            strata.append(Stratum(proportions(int(x[0]), n[0]), proportions(int(x[1]), n[1])))
        interval = stratified_difference(strata, weighting=weighting).effect.interval(alpha=0.05)
        missed += not interval.lower <= 0 <= interval.upper
        together = pooled(strata)
        interval = mean_difference(together.treatment, together.control).interval(alpha=0.05)
        pooled_missed += not interval.lower <= 0 <= interval.upper
    limit = binom.ppf(1 - 1e-6, runs, 0.06)
    assert missed <= limit
    assert pooled_missed > 0.9 * runs  # planted bug


def test_strata_without_a_comparison_are_left_out_and_counted():
    strata = [Stratum(proportions(0, 0), proportions(3, 10)), Stratum(proportions(4, 10), proportions(3, 10))]
    for weighting in ("mantel-haenszel", "sample-share", "inverse-variance"):
        result = stratified_difference(strata, weighting=weighting)
        assert (result.weights, result.n_left_out) == ((0.0, 1.0), 10)
        assert result.effect == mean_difference(strata[1].treatment, strata[1].control)
    with pytest.raises(InsufficientData, match="no stratum"):
        stratified_difference(strata[:1], weighting="sample-share")


RNG = np.random.default_rng(20260101 + 9)
X = RNG.normal(size=(90, 2)) * (1.0, 1e6)
ARM = np.arange(90) < 30
Y = 2 + X @ (0.8, -0.5e-6) + 0.4 * ARM + RNG.normal(size=90) * 0.5
ROWS = np.column_stack((Y, X))
ARMS = JointTotals.from_observations(ROWS[ARM]), JointTotals.from_observations(ROWS[~ARM])


def test_cuped_is_least_squares_with_a_common_slope():
    """Against statsmodels OLS: the coefficient of the treatment, covariates' slopes common to both arms.

    CUPED with slopes from within the arms is that regression; errors are Welch's here.
    """
    model = sm.OLS(Y, sm.add_constant(np.column_stack((ARM.astype(float), X / (1.0, 1e6))))).fit()
    result = cuped(*ARMS)
    assert result.effect.value == pytest.approx(model.params[1], rel=1e-9)
    assert result.effect.standard_error == pytest.approx(model.bse[1], rel=0.15)
    plain = mean_difference(MeanTotals.from_observations(Y[ARM]), MeanTotals.from_observations(Y[~ARM]))
    assert result.unadjusted.variance == pytest.approx(plain.variance)
    assert result.variance_reduction == pytest.approx(1 - result.effect.variance / plain.variance)
    assert 0.5 < result.variance_reduction < 0.95


def test_regression_adjustment_is_least_squares_with_interactions():
    """Against statsmodels OLS with HC2: the same coefficient, and errors but for the sampled centre's."""
    centred = (X - X.mean(axis=0)) / (1.0, 1e6)
    design = np.column_stack((np.ones(90), ARM, centred, centred * ARM[:, None])).astype(float)
    model = sm.OLS(Y, design).fit(cov_type="HC2")
    result = regression_adjustment(*ARMS)
    assert result.effect.value == pytest.approx(model.params[1], rel=1e-9)
    assert result.effect.standard_error == pytest.approx(model.bse[1], rel=0.15)


def test_useless_or_repeated_covariates_change_nothing():
    constant = np.column_stack((Y, np.full(90, 3.0), X[:, 0], X[:, 0]))
    arms = JointTotals.from_observations(constant[ARM]), JointTotals.from_observations(constant[~ARM])
    single = ROWS[:, :2]
    alone = JointTotals.from_observations(single[ARM]), JointTotals.from_observations(single[~ARM])
    for adjust in (cuped, regression_adjustment):
        assert adjust(*arms).effect.value == pytest.approx(adjust(*alone).effect.value, rel=1e-9)


def test_adjusting_needs_units_beyond_the_coefficients():
    few = JointTotals.from_observations(ROWS[:3])
    for adjust in (cuped, regression_adjustment):
        with pytest.raises(InsufficientData, match="at least 4 units"):
            adjust(few, ARMS[1])
        with pytest.raises(InvalidInput):
            adjust(ARMS[0].select(0), ARMS[1].select(0))


def test_post_stratification_weighs_by_all_units_and_reports_its_gain():
    strata = [
        Stratum(MeanTotals(15, 2.0, 14.0), MeanTotals(15, 1.0, 14.0)),
        Stratum(MeanTotals(5, 13.0, 4.0), MeanTotals(5, 10.0, 4.0)),
    ]
    result = post_stratification(strata)
    assert result.effect.value == pytest.approx(1.5)
    assert result.variance_reduction > 0.9


def test_the_worked_adjustments_hold():
    for correction, expected in (
        ("bonferroni", (0.03, 0.06, 0.12)),
        ("holm", (0.03, 0.04, 0.04)),
        ("benjamini-hochberg", (0.03, 0.03, 0.04)),
        ("benjamini-yekutieli", (0.055, 0.055, 0.0733333333)),
    ):
        assert adjusted_p_values([0.01, 0.02, 0.04], correction=correction) == pytest.approx(expected)
        assert adjusted_p_values([], correction=correction) == ()
    assert e_benjamini_hochberg([60, 1, 25], alpha=0.1) == (True, False, True)
    assert e_benjamini_hochberg([2.0, 3.0], alpha=0.1) == (False, False)
    assert e_benjamini_hochberg([], alpha=0.1) == ()
    with pytest.raises(InvalidInput):
        adjusted_p_values([1.2], correction="holm")
    with pytest.raises(InvalidInput):
        e_benjamini_hochberg([-1.0], alpha=0.1)


@pytest.mark.parametrize(
    ("correction", "name"), [("benjamini-hochberg", "bh"), ("benjamini-yekutieli", "by")]
)
@pytest.mark.parametrize("m", [1, 2, 7, 60])
def test_adjustments_are_those_of_scipy(correction, name, m):
    p_values = np.random.default_rng(m).random(m).round(2) ** 3  # some of the sixty are equal
    expected = false_discovery_control(p_values, method=name)
    assert adjusted_p_values(p_values.tolist(), correction=correction) == pytest.approx(expected, rel=1e-12)


@given(
    st.lists(st.floats(-6, 6), min_size=1, max_size=8),
    st.sampled_from(["benjamini-hochberg", "benjamini-yekutieli"]),
)
def test_intervals_of_findings_exclude_zero_and_others_have_none(z, correction):
    effects = [Estimate(value, 1.0) for value in z]
    p_values = adjusted_p_values([effect.test().p_value for effect in effects], correction=correction)
    intervals = simultaneous_intervals(effects, alpha=0.05, correction=correction)
    for p_value, interval in zip(p_values, intervals, strict=True):
        assert (interval is not None) == (p_value <= 0.05)
        assert interval is None or interval.lower > -1e-9 or interval.upper < 1e-9


def test_guardrails_stay_out_of_the_family():
    effect = Estimate(2.1701, 1.0)  # p = 0.03
    members = [
        Member("a", "primary", effect),
        Member("g", "guardrail", effect),
        Member("b", "secondary", effect),
    ]
    findings = family_findings(members, alpha=0.05, correction="bonferroni")
    assert [finding.key for finding in findings] == ["a", "g", "b"]
    assert [finding.p_value for finding in findings] == pytest.approx([0.06, 0.03, 0.06], abs=1e-4)
    assert [finding.significant for finding in findings] == [False, True, False]
    assert [finding.adjusted for finding in findings] == [True, False, True]
    assert findings[1].interval == effect.interval(alpha=0.05)
    with pytest.raises(InvalidInput, match="repeats"):
        family_findings([members[0], members[0]], alpha=0.05, correction="holm")


# The 13 trials of BCG vaccine, Colditz et al. (1994), as log risk ratios.
BCG = (
    (4, 123, 11, 139), (6, 306, 29, 303), (3, 231, 11, 220), (62, 13598, 248, 12867), (33, 5069, 47, 5808),
    (180, 1541, 372, 1451), (8, 2545, 10, 629), (505, 88391, 499, 88391), (29, 7499, 45, 7277),
    (17, 1716, 65, 1665), (186, 50634, 141, 27338), (5, 2498, 3, 2341), (27, 16913, 29, 17854),
)  # fmt: skip
TRIALS = [Estimate(math.log(a / n * m / b), math.sqrt(1 / a - 1 / n + 1 / b - 1 / m)) for a, n, b, m in BCG]


def test_pooling_reproduces_the_published_analysis_of_bcg_trials():
    """R metafor 4: rma(method="REML") gives tau^2 0.3132, -0.7145 (0.1798), Q 152.23, I^2 of Q 92.12 %."""
    result = partial_pooling(TRIALS)
    assert result.between_variance == pytest.approx(0.3132, abs=5e-5)
    assert result.common.value == pytest.approx(-0.7145, abs=5e-5)
    assert result.common.standard_error == pytest.approx(0.1798, abs=5e-5)
    assert result.interaction.statistic == pytest.approx(152.2330, abs=5e-4)
    assert result.inconsistency == pytest.approx(1 - 12 / 152.233, rel=1e-5)
    for trial, segment in zip(TRIALS, result.segments, strict=True):
        assert min(trial.value, -0.7146) <= segment.value <= max(trial.value, -0.7144)


def test_dersimonian_laird_agrees_with_statsmodels():
    values = np.array([trial.value for trial in TRIALS])
    variances = np.array([trial.variance for trial in TRIALS])
    reference = combine_effects(values, variances, method_re="dl")
    result = partial_pooling(TRIALS, method="dersimonian-laird")
    assert result.between_variance == pytest.approx(reference.tau2, rel=1e-9)
    assert result.common.value == pytest.approx(reference.mean_effect_re, rel=1e-9)


def test_the_worked_segments_hold():
    effects = [Estimate(0, 1), Estimate(4, 1)]
    result = partial_pooling(effects, method="dersimonian-laird")
    assert [segment.value for segment in result.segments] == pytest.approx([0.25, 3.75])
    assert interaction_test([Estimate(0, 1), Estimate(2, 1)]).p_value == pytest.approx(0.1573, abs=1e-4)
    same = partial_pooling([Estimate(1, 1), Estimate(1, 2)])
    assert same.between_variance == 0
    assert same.segments[0] == pytest.approx(same.segments[1]) or same.segments[0].value == 1
    with pytest.raises(InsufficientData):
        partial_pooling(effects[:1])
    readout = segment_readout(["a", "b"], effects, correction="holm")
    assert readout.segments[1].p_value == pytest.approx(2 * Estimate(4, 1).test().p_value)
    with pytest.raises(InvalidInput):
        segment_readout(["a", "a"], effects, correction="holm")


def test_partially_pooled_intervals_cover_on_average_and_the_largest_raw_effect_does_not():
    """20 segments with true effects of sd 1 and error 1: of all the segments at most alpha are missed.

    The segment that looks best is missed by its own interval far more often: the reason to pool.
    """
    rng = np.random.default_rng(20260101 + 10)
    runs, missed, best_missed = 300, 0, 0
    for _ in range(runs):
        truth = rng.normal(size=20)
        effects = [Estimate(float(value), 1.0) for value in truth + rng.normal(size=20)]
        best = max(range(20), key=lambda at: effects[at].value)
        segment = partial_pooling(effects).segments[best].interval(alpha=0.05)
        missed += not segment.lower <= truth[best] <= segment.upper
        own = effects[best].interval(alpha=0.05)
        best_missed += not own.lower <= truth[best] <= own.upper
    # Empirical Bayes ignores the error of the variance between: .07 is allowed for.
    limit = binom.ppf(1 - 1e-6, runs, 0.07)
    assert missed <= limit
    assert best_missed > limit  # planted bug
