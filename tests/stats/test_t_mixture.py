"""Student's t tests at every look: exact, worked by hand, and with a planted bug."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stats import mixture
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.t_mixture import TMixture

RUNS, PAIRS, ALPHA, RHO = 4_000, 150, 0.05, 0.5


def logs(t, freedom, information, rho):
    r = rho / (rho + information)
    return 0.5 * np.log(r) + 0.5 * (freedom + 1) * (np.log1p(t**2 / freedom) - np.log1p(r * t**2 / freedom))


@pytest.fixture(scope="module")
def walks():
    """Statistics of A/A tests after every pair, shape (runs, pairs - 1), freedom, information."""
    rng = np.random.default_rng(20261202)
    n = np.arange(2, PAIRS + 1)
    arms = []
    for _ in range(2):
        values = 7 + 3 * rng.normal(size=(RUNS, PAIRS))
        total, squares = values.cumsum(axis=1)[:, 1:], (values**2).cumsum(axis=1)[:, 1:]
        arms.append((total / n, squares - total**2 / n))
    freedom = 2 * n - 2
    pooled = (arms[0][1] + arms[1][1]) / freedom
    return (arms[0][0] - arms[1][0]) / np.sqrt(pooled * 2 / n), freedom, n / 2


def test_it_ever_rejects_a_true_null_in_at_most_alpha_of_runs_from_the_second_pair_on(walks):
    t, freedom, information = walks
    limit = stats.binom.isf(1e-3, RUNS, ALPHA)
    assert (logs(t, freedom, information, RHO).max(axis=1) >= -math.log(ALPHA)).sum() <= limit
    planted = mixture.log_mixture(t * np.sqrt(information), information, rho=RHO)
    assert (planted.max(axis=1) >= -math.log(ALPHA)).sum() > limit, "an estimated variance taken as known"


@given(
    t=st.floats(-8, 8), freedom=st.integers(1, 500), information=st.floats(0.5, 1e4), rho=st.floats(0.1, 1e3)
)
def test_the_interval_holds_the_effects_that_the_evidence_does_not_reject(t, freedom, information, rho):
    test, estimate = TMixture(rho), Estimate(t, 1.0, freedom)
    assert test.evidence(estimate, information).log_value == pytest.approx(logs(t, freedom, information, rho))
    try:
        interval = test.interval(estimate, information, alpha=ALPHA)
    except InsufficientData:
        assert not test.evidence(Estimate(1e9, 1.0, freedom), information).rejects(ALPHA)
        return
    for edge, outwards in ((interval.lower, -1), (interval.upper, 1)):
        beyond, within = edge + outwards * 1e-3, edge - outwards * 1e-3
        assert test.evidence(estimate, information, null=beyond).rejects(ALPHA)
        assert not test.evidence(estimate, information, null=within).rejects(ALPHA)


def test_the_worked_case_holds_and_many_degrees_of_freedom_give_the_normal_mixture():
    assert TMixture(4.0).evidence(Estimate(2.0, 1.0, 3), 4.0).value == pytest.approx(1.3859, abs=1e-4)
    nearly = TMixture(4.0).evidence(Estimate(2.0, 1.0, 1e9), 4.0).log_value
    assert nearly == pytest.approx(float(mixture.log_mixture(4.0, 4.0, rho=4.0)), abs=1e-6)


def test_what_has_no_t_statistic_is_refused():
    with pytest.raises(InvalidInput, match="rho must be positive"):
        TMixture(0.0)
    with pytest.raises(InvalidInput, match="information must be positive"):
        TMixture(1.0).evidence(Estimate(1.0, 1.0, 3), 0.0)
    with pytest.raises(InsufficientData, match="finite degrees of freedom"):
        TMixture(1.0).evidence(Estimate(1.0, 1.0), 5.0)
    with pytest.raises(InsufficientData, match="exclude no effect yet"):
        TMixture(1.0).interval(Estimate(1.0, 1.0, 1), 2.0, alpha=0.001)
