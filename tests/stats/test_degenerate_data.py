"""Data at the edge of what can be estimated: the right value or a reason, never a plausible wrong number."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.inter_rater import cohens_kappa

from stats import relative
from stats.agreement import LimitingAgreement, cohen_kappa, fleiss_kappa, gwet_ac1, krippendorff_alpha
from stats.counts import fisher_test, rate_ratio_test
from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.means import mean_difference
from stats.ratios import ratio, ratio_difference, ratio_parts, with_covariates
from stats.sequences import Contrast, relative_difference_sequence
from stats.totals import CountTotals, JointTotals, MeanTotals, ProportionTotals
from stats.variance_reduction import cuped, regression_adjustment

SEED = 20260101
P = ProportionTotals


# Exact tests without variety


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("arms", [(P(100, 0), P(100, 0)), (P(100, 100), P(7, 7)), (P(1, 0), P(1, 0))])
def test_fishers_test_of_a_single_possible_table_has_p_one(arms, alternative):
    assert fisher_test(*arms, alternative=alternative).p_value == 1


def test_fishers_test_of_an_empty_arm_is_refused():
    with pytest.raises(InsufficientData, match="units per arm"):
        fisher_test(P(0, 0), P(100, 0))


def test_a_rate_ratio_without_events_has_p_one():
    assert rate_ratio_test(CountTotals(0, 1.0), CountTotals(0, 9.0)).p_value == 1


# Agreement at its limits


@pytest.mark.parametrize("weights", ["unweighted", "linear", "quadratic"])
@pytest.mark.parametrize(
    ("table", "value"),
    [([[50, 0], [0, 50]], 1.0), ([[0, 50], [50, 0]], -1.0), ([[9, 0, 0], [0, 5, 0], [0, 0, 3]], 1.0)],
)
def test_cohens_kappa_at_perfect_and_opposite_agreement(table, value, weights):
    found = cohen_kappa(np.array(table), weights=weights)
    reference = cohens_kappa(np.array(table), wt=None if weights == "unweighted" else weights)
    assert found.value == pytest.approx(value) == reference.kappa
    interval = found.interval(alpha=0.05)
    assert -1 <= interval.lower < interval.upper <= 1
    assert (interval.upper if value > 0 else interval.lower) == value


def test_the_limit_of_perfect_agreement_worked_by_hand():
    found = cohen_kappa(np.array([[25, 0], [0, 25]]))
    assert found.interval(alpha=0.05).lower == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 50)))
    assert found.test(null=0.0).p_value == pytest.approx(2 * 0.5**50)
    assert found.test(null=0.0, alternative="greater").p_value == pytest.approx(0.5**50)
    assert found.test(null=0.0, alternative="less").p_value == 1
    assert found.test(null=1.0).p_value == 1


@given(st.integers(3, 400), st.integers(1, 99), st.floats(0.001, 0.3), st.floats(-1, 1))
def test_interval_and_test_of_limiting_agreement_are_two_sides_of_one_rule(items, agreed, alpha, null):
    found = LimitingAgreement.of(items, agreed / 100, 0.3)
    interval, p = found.interval(alpha=alpha), found.test(null=null).p_value
    if min(abs(null - interval.lower), abs(null - interval.upper)) > 1e-9:
        assert (interval.lower < null < interval.upper) == (p > alpha)


def test_a_single_category_leaves_agreement_undefined():
    for table in ([[9, 0], [0, 0]], [[30, 20], [0, 0]], [[0, 9], [0, 0]]):
        with pytest.raises(InsufficientData, match="used one category only"):
            cohen_kappa(np.array(table))
    with pytest.raises(InsufficientData, match="one category"):
        fleiss_kappa(np.array([[2, 0]] * 9))
    for scale in ("nominal", "ordinal", "interval"):
        with pytest.raises(InsufficientData, match="one value"):
            krippendorff_alpha(np.ones((9, 3)), scale=scale)


@pytest.mark.parametrize("rare", [1, 5])
def test_other_coefficients_are_one_at_perfect_agreement_however_rare_a_category_is(rare):
    counts = np.array([[3, 0]] * 20 + [[0, 3]] * rare)
    ratings = np.array([[1, 1, 1]] * 20 + [[2, 2, 2]] * rare, dtype=float)
    found = [fleiss_kappa(counts), gwet_ac1(counts)]
    found += [krippendorff_alpha(ratings, scale=scale) for scale in ("nominal", "ordinal", "interval")]
    for one in found:
        assert one.value == 1
        interval = one.interval(alpha=0.05)
        assert interval.lower < 1 == interval.upper
    assert gwet_ac1(np.array([[3, 0]] * 20)).value == 1, "defined, unlike kappa: chance agreement is 0"


def test_other_coefficients_at_opposite_agreement():
    counts, n = np.array([[1, 1]] * 20), 20
    ratings = np.array([[1, 2], [2, 1]] * 10, dtype=float)
    assert fleiss_kappa(counts).value == pytest.approx(-1)
    assert gwet_ac1(counts).value == pytest.approx(-1)
    for scale in ("nominal", "ordinal", "interval"):
        # All pairs of 2 n ratings, n of each value: a share n / (2 n - 1) of them differs.
        assert krippendorff_alpha(ratings, scale=scale).value == pytest.approx(1 - (2 * n - 1) / n)


tables = st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=3, max_size=3)


@given(tables)
def test_cohens_kappa_agrees_with_its_definition_on_small_tables(table):
    counts = np.array(table)
    n = counts.sum()
    try:
        found = cohen_kappa(counts)
    except InsufficientData:
        used = max((counts.sum(axis=0) > 0).sum(), (counts.sum(axis=1) > 0).sum())
        one_sided = min((counts.sum(axis=0) > 0).sum(), (counts.sum(axis=1) > 0).sum()) <= 1
        assert n < 2 or used <= 1 or one_sided or counts.trace() not in (0, n)
        return
    rows, columns = counts.sum(axis=1) / n, counts.sum(axis=0) / n
    chance = rows @ columns
    assert found.value == pytest.approx((counts.trace() / n - chance) / (1 - chance), abs=1e-9)


# Relative to a negative control


@given(st.floats(0.1, 50), st.floats(-50, 50), st.floats(0.001, 0.2))
def test_relative_intervals_of_negative_means_mirror_those_of_positive_ones(control, treatment, alpha):
    arms = Estimate(treatment, 0.3, 90.0), Estimate(control, 0.02, 70.0)
    try:
        up = relative.fieller_interval(*arms, alpha=alpha)
    except InsufficientData:
        with pytest.raises(InsufficientData):
            relative.fieller_interval(-arms[0], -arms[1], alpha=alpha)
        return
    down = relative.fieller_interval(-arms[0], -arms[1], alpha=alpha)
    assert (down.lower, down.upper) == (-up.upper, -up.lower)


@pytest.mark.parametrize(("side", "mirrored"), [("two-sided", "two-sided"), ("greater", "less")])
def test_relative_sequences_of_negative_means_mirror_those_of_positive_ones(side, mirrored):
    up = Contrast(10.009, 10.215, 1e-4, 1e-4, 5_000.0)
    down = Contrast(-10.009, -10.215, 1e-4, 1e-4, 5_000.0)
    of_up = relative_difference_sequence(up, alpha=0.05, tuned_to=5_000, alternative=side)
    of_down = relative_difference_sequence(down, alpha=0.05, tuned_to=5_000, alternative=mirrored)
    assert (of_down.lower, of_down.upper) == (-of_up.upper, -of_up.lower)
    assert of_up.lower < 0.0206 < of_up.upper


@given(st.floats(-3, 3))
def test_relative_sequences_are_refused_while_the_control_cannot_be_told_from_zero(errors):
    near = Contrast(errors * 0.1, 1.0, 0.01, 0.01, 5_000.0)
    with pytest.raises(InsufficientData, match="told from 0"):
        relative_difference_sequence(near, alpha=0.05, tuned_to=5_000)


# CUPED


def rows_of(rng, n, *, shift=0.0, ratio_of=None):
    x = rng.normal(5.0, 1.0, n)
    if ratio_of is None:
        return np.stack((shift + x + rng.normal(size=n), x), axis=1)
    seen = 1.0 + rng.poisson(3.0, n)
    rate = np.clip(ratio_of + shift + 0.04 * (x - 5.0), 0.01, 0.99)
    return np.stack((rng.binomial(seen.astype(int), rate).astype(float), seen, x), axis=1)


@given(
    constant=st.one_of(st.just(0.0), st.floats(-1e12, 1e12), st.floats(-1, 1)),
    sizes=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    seed=st.integers(0, 2**32 - 1),
)
def test_constant_covariates_change_nothing_bit_for_bit(constant, sizes, seed):
    """Also where totals were merged from parts, whose rounded means differ from the constant."""
    rng, arms = np.random.default_rng(seed), []
    for n in sizes:
        parts = [rng.normal(size=n), rng.normal(size=n)]
        columns = [np.column_stack([part, np.full(n, constant)]) for part in parts]
        arms.append(JointTotals.from_observations(columns[0]) + JointTotals.from_observations(columns[1]))
    unadjusted = mean_difference(arms[0].value(0), arms[1].value(0))
    for method in (cuped, regression_adjustment):
        assert method(*arms).effect == unadjusted
        assert method(*arms).variance_reduction == 0


def test_a_repeated_covariate_changes_nothing():
    rng = np.random.default_rng(SEED)
    once = [rows_of(rng, n) for n in (40, 30)]
    twice = [np.column_stack([rows, rows[:, 1], np.ones(len(rows))]) for rows in once]
    for method in (cuped, regression_adjustment):
        plain, repeated = (method(*map(JointTotals.from_observations, arms)).effect for arms in (once, twice))
        assert repeated.value == pytest.approx(plain.value, rel=1e-9)
        assert repeated.interval(alpha=0.05).upper == pytest.approx(plain.interval(alpha=0.05).upper)


def test_a_covariate_that_is_the_outcome_leaves_no_spread_to_judge_by():
    rng = np.random.default_rng(SEED + 1)
    arms = [rng.normal(size=(50, 1)) * [[1, 3]] for _ in range(2)]
    with pytest.raises(InsufficientData, match="no spread"):
        cuped(*map(JointTotals.from_observations, arms))


def test_a_ratio_that_all_units_share_is_known_but_not_how_surely():
    seen = np.random.default_rng(SEED + 2).integers(1, 9, 500) * 0.1
    total = JointTotals.from_observations(np.stack([20 * seen, seen], axis=1))
    parts = ratio_parts(total)
    assert (parts.n, parts.m2) == (500, 0.0)
    assert parts.mean == pytest.approx(20, rel=1e-15)
    for ask in (lambda: ratio(total), lambda: ratio_difference(total, total)):
        with pytest.raises(InsufficientData, match="no spread"):
            ask()
    assert ratio_parts(JointTotals(1, (3.0, 2.0), (0.0, 0.0, 0.0))) == MeanTotals(1, 1.5, 0.0)
    with pytest.raises(InsufficientData, match="denominator"):
        ratio_parts(JointTotals(1, (3.0, 0.0), (0.0, 0.0, 0.0)))


def test_covariates_of_a_ratio_agree_with_least_squares_on_the_rows():
    """Independent: the delta method's residuals of each row, regressed by statsmodels."""
    rng = np.random.default_rng(SEED + 3)
    arms = [rows_of(rng, n, ratio_of=0.3, shift=s) for n, s in ((900, 0.05), (1_100, 0.0))]
    found = cuped(*(with_covariates(JointTotals.from_observations(rows)) for rows in arms))
    parts, design = [], []
    for arm, rows in enumerate(arms):
        clicks, seen, x = rows.T
        own = clicks.sum() / seen.sum()
        parts.append(own + (clicks - own * seen) / seen.mean())
        design.append(np.column_stack([np.ones(len(x)), np.full(len(x), 1.0 - arm), x]))
    fit = OLS(np.concatenate(parts), np.concatenate(design)).fit(cov_type="HC2")
    assert found.effect.value == pytest.approx(fit.params[1], rel=1e-9)
    assert found.effect.standard_error == pytest.approx(fit.bse[1], rel=5e-3)
    plain = ratio_difference(*(JointTotals.from_observations(rows[:, :2]) for rows in arms))
    assert found.unadjusted.value == pytest.approx(plain.value)
    assert found.unadjusted.standard_error == pytest.approx(plain.standard_error)
    assert found.variance_reduction > 0.02


def coverage(runs, *, adjusted, seed):
    """How often the 95 % interval of a ratio's effect of 0.02 holds it, with a covariate or a planted bug."""
    rng, held = np.random.default_rng(SEED + seed), 0
    for _ in range(runs):
        arms = [
            with_covariates(JointTotals.from_observations(rows_of(rng, 150, ratio_of=0.3, shift=shift)))
            for shift in (0.02, 0.0)
        ]
        found = cuped(*arms)
        effect = (
            found.effect if adjusted else Estimate(found.unadjusted.value, found.effect.standard_error / 1.4)
        )
        interval = effect.interval(alpha=0.05)
        held += interval.lower <= 0.02 <= interval.upper
    return held


def test_adjusted_ratios_are_covered_as_often_as_they_claim():
    """A correct method fails with probability below 1e-5; too small an error must fail."""
    runs = 600
    limit = binom.ppf(1e-5, runs, 0.945)
    assert coverage(runs, adjusted=True, seed=4) >= limit
    assert coverage(runs, adjusted=False, seed=4) < limit  # planted bug


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_parts_of_ratios_and_their_covariates_agree_with_the_rows(seed, n):
    rng = np.random.default_rng(seed)
    rows = np.column_stack([rng.normal(size=n), 5 + rng.random(n), rng.normal(size=(n, 2))])
    total = JointTotals.from_observations(rows)
    value = rows[:, 0].sum() / rows[:, 1].sum()
    parts = value + (rows[:, 0] - value * rows[:, 1]) / rows[:, 1].mean()
    expected = JointTotals.from_observations(np.column_stack([parts, rows[:, 2:]]))
    found = with_covariates(total)
    assert found.mean == pytest.approx(expected.mean, abs=1e-9)
    assert found.comoments == pytest.approx(expected.comoments, abs=1e-9)
    assert math.isclose(ratio_parts(total).m2, expected.comoments[0], abs_tol=1e-9)
