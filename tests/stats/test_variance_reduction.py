"""CUPED and regression adjustment against least squares."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.regression.linear_model import OLS

from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.means import mean_difference
from stats.ratios import ratio_parts, with_covariates
from stats.totals import JointTotals, MeanTotals
from stats.variance_reduction import CovariateAdjustment, regression_adjustment

RNG = np.random.default_rng(20260101 + 9)

X = RNG.normal(size=(90, 2)) * (1.0, 1e6)

ARM = np.arange(90) < 30

Y = 2 + X @ (0.8, -0.5e-6) + 0.4 * ARM + RNG.normal(size=90) * 0.5

ROWS = np.column_stack((Y, X))

ARMS = JointTotals.from_observations(ROWS[ARM]), JointTotals.from_observations(ROWS[~ARM])


def cuped(treatment, control):
    """The adjusted difference, with one coefficient for both arms."""
    adjustment = CovariateAdjustment.fit([treatment, control])
    if adjustment is None:
        return mean_difference(treatment.value(0), control.value(0))
    return mean_difference(adjustment.apply(treatment), adjustment.apply(control))


def regressed(treatment, control):
    return regression_adjustment(treatment, control).effect


def test_cuped_is_least_squares_with_a_common_slope():
    """Against statsmodels OLS: the coefficient of the treatment, covariates' slopes common to both arms.

    CUPED with slopes from within the arms is that regression; errors are Welch's here.
    """
    model = sm.OLS(Y, sm.add_constant(np.column_stack((ARM.astype(float), X / (1.0, 1e6))))).fit()
    effect = cuped(*ARMS)
    assert effect.value == pytest.approx(model.params[1], rel=1e-9)
    assert effect.standard_error == pytest.approx(model.bse[1], rel=0.15)


def test_regression_adjustment_is_least_squares_with_interactions():
    """Against statsmodels OLS with HC2: the same coefficient, and errors but for the sampled centre's."""
    centred = (X - X.mean(axis=0)) / (1.0, 1e6)
    design = np.column_stack((np.ones(90), ARM, centred, centred * ARM[:, None])).astype(float)
    model = sm.OLS(Y, design).fit(cov_type="HC2")
    result = regression_adjustment(*ARMS)
    assert result.effect.value == pytest.approx(model.params[1], rel=1e-9)
    assert result.effect.standard_error == pytest.approx(model.bse[1], rel=0.15)
    plain = mean_difference(MeanTotals.from_observations(Y[ARM]), MeanTotals.from_observations(Y[~ARM]))
    assert result.unadjusted.variance == pytest.approx(plain.variance)
    assert result.variance_reduction == pytest.approx(1 - result.effect.variance / plain.variance)
    assert 0.5 < result.variance_reduction < 0.95


def test_a_worked_adjustment_keeps_equal_means_and_leaves_the_residuals():
    rows = [[(1, 0), (3, 2), (2, 1)], [(0, 0), (2, 2), (4, 1)]]
    arms = [JointTotals.from_observations(np.array(arm, dtype=float)) for arm in rows]
    adjustment = CovariateAdjustment.fit(arms)
    assert adjustment.coefficients == pytest.approx([1.0])
    assert adjustment.caution == pytest.approx(4 / 3)
    adjusted = [adjustment.apply(arm) for arm in arms]
    assert [arm.mean for arm in adjusted] == pytest.approx([2.0, 2.0])
    assert [arm.m2 for arm in adjusted] == pytest.approx([0.0, 6 * 4 / 3])


def test_useless_or_repeated_covariates_change_nothing():
    constant = np.column_stack((Y, np.full(90, 3.0), X[:, 0], X[:, 0]))
    arms = JointTotals.from_observations(constant[ARM]), JointTotals.from_observations(constant[~ARM])
    single = ROWS[:, :2]
    alone = JointTotals.from_observations(single[ARM]), JointTotals.from_observations(single[~ARM])
    for adjust in (cuped, regressed):
        assert adjust(*arms).value == pytest.approx(adjust(*alone).value, rel=1e-9)


def test_adjusting_needs_units_beyond_the_coefficients():
    few = JointTotals.from_observations(ROWS[:3])
    with pytest.raises(InsufficientData, match="at least 4 units"):
        regression_adjustment(few, ARMS[1])
    with pytest.raises(InvalidInput):
        regression_adjustment(ARMS[0].select(0), ARMS[1].select(0))
    with pytest.raises(InsufficientData, match="covariates take"):
        CovariateAdjustment.fit([few])


SEED = 20260101


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
    assert CovariateAdjustment.fit(arms) is None
    assert regression_adjustment(*arms).effect == unadjusted
    assert regression_adjustment(*arms).variance_reduction == 0


def test_a_repeated_covariate_changes_nothing():
    rng = np.random.default_rng(SEED)
    once = [rows_of(rng, n) for n in (40, 30)]
    twice = [np.column_stack([rows, rows[:, 1], np.ones(len(rows))]) for rows in once]
    for method in (cuped, regressed):
        plain, repeated = (method(*map(JointTotals.from_observations, arms)) for arms in (once, twice))
        assert repeated.value == pytest.approx(plain.value, rel=1e-9)
        assert repeated.interval(alpha=0.05).upper == pytest.approx(plain.interval(alpha=0.05).upper)


def test_a_covariate_that_is_the_outcome_leaves_no_spread_to_judge_by():
    rng = np.random.default_rng(SEED + 1)
    arms = [rng.normal(size=(50, 1)) * [[1, 3]] for _ in range(2)]
    with pytest.raises(InsufficientData, match="no spread"):
        cuped(*map(JointTotals.from_observations, arms))


def test_covariates_of_a_ratio_agree_with_least_squares_on_the_rows():
    """Independent: the delta method's residuals of each row, regressed by statsmodels."""
    rng = np.random.default_rng(SEED + 3)
    arms = [rows_of(rng, n, ratio_of=0.3, shift=s) for n, s in ((900, 0.05), (1_100, 0.0))]
    effect = cuped(*(with_covariates(JointTotals.from_observations(rows)) for rows in arms))
    parts, design = [], []
    for arm, rows in enumerate(arms):
        clicks, seen, x = rows.T
        own = clicks.sum() / seen.sum()
        parts.append(own + (clicks - own * seen) / seen.mean())
        design.append(np.column_stack([np.ones(len(x)), np.full(len(x), 1.0 - arm), x]))
    fit = OLS(np.concatenate(parts), np.concatenate(design)).fit(cov_type="HC2")
    assert effect.value == pytest.approx(fit.params[1], rel=1e-9)
    assert effect.standard_error == pytest.approx(fit.bse[1], rel=5e-3)
    plain = mean_difference(*(ratio_parts(JointTotals.from_observations(rows[:, :2])) for rows in arms))
    assert effect.variance < 0.98 * plain.variance


def coverage(runs, *, adjusted, seed):
    """How often the 95 % interval of a ratio's effect of 0.02 holds it, with a covariate or a planted bug."""
    rng, held = np.random.default_rng(SEED + seed), 0
    for _ in range(runs):
        arms = [
            with_covariates(JointTotals.from_observations(rows_of(rng, 150, ratio_of=0.3, shift=shift)))
            for shift in (0.02, 0.0)
        ]
        effect = cuped(*arms)
        if not adjusted:
            unadjusted = mean_difference(*(arm.value(0) for arm in arms))
            effect = Estimate(unadjusted.value, effect.standard_error / 1.4)
        interval = effect.interval(alpha=0.05)
        held += interval.lower <= 0.02 <= interval.upper
    return held


def test_adjusted_ratios_are_covered_as_often_as_they_claim():
    """A correct method fails with probability below 1e-5; too small an error must fail."""
    runs = 600
    limit = binom.ppf(1e-5, runs, 0.945)
    assert coverage(runs, adjusted=True, seed=4) >= limit
    assert coverage(runs, adjusted=False, seed=4) < limit  # planted bug
