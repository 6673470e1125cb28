"""Ratios by the delta method against cluster-robust least squares."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from stats.errors import InsufficientData
from stats.means import mean, mean_difference
from stats.ratios import ratio_parts, with_covariates
from stats.totals import JointTotals, MeanTotals


def joint(*rows):
    return JointTotals.from_observations(np.array(rows, dtype=float))


def test_the_worked_ratios_hold():
    one = joint((1, 1), (1, 3))
    with pytest.raises(InsufficientData, match="far enough"):
        ratio_parts(one)  # two units do not say that the denominator is not 0
    many = joint(*[(1, 1), (1, 3)] * 50)
    assert ratio_parts(many).m2 == pytest.approx(100 / 16)
    estimate = mean(ratio_parts(many))
    assert estimate.value == pytest.approx(0.5)
    assert estimate.standard_error == pytest.approx(0.25 / math.sqrt(99))


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
    effect = mean_difference(*map(ratio_parts, arms))
    assert effect.value == pytest.approx(model.params[1], rel=1e-10)
    assert effect.standard_error == pytest.approx(model.bse[1] * math.sqrt(40 / 39), rel=1e-10)


SEED = 20260101


def test_a_ratio_that_all_units_share_is_known_but_not_how_surely():
    seen = np.random.default_rng(SEED + 2).integers(1, 9, 500) * 0.1
    total = JointTotals.from_observations(np.stack([20 * seen, seen], axis=1))
    parts = ratio_parts(total)
    assert (parts.n, parts.m2) == (500, 0.0)
    assert parts.mean == pytest.approx(20, rel=1e-15)
    with pytest.raises(InsufficientData, match="no spread"):
        mean(parts)
    assert ratio_parts(JointTotals(1, (3.0, 2.0), (0.0, 0.0, 0.0))) == MeanTotals(1, 1.5, 0.0)
    with pytest.raises(InsufficientData, match="denominator"):
        ratio_parts(JointTotals(1, (3.0, 0.0), (0.0, 0.0, 0.0)))


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
