"""Tests of `bandits.pulls`."""

import numpy as np
import pytest
from scipy import stats

from bandits.arms import BetaArms
from bandits.pulls import (
    Exp3Ix,
    capped_pulls,
    exact_pulls,
    optimistic_pulls,
    thompson_pulls,
    with_floor_pulls,
)
from bandits.thompson import optimistic_thompson, thompson
from bandits.totals import ArmTotals

ONE_RUN = ArmTotals(
    *(np.array([row], dtype=float) for row in ([40, 25, 35], [12, 10, 9], [12, 10, 9], [0, 0, 0]))
)


@pytest.mark.parametrize(
    ("pulls", "policy"), [(thompson_pulls, thompson), (optimistic_pulls, optimistic_thompson)]
)
def test_simulated_pulls_have_the_distribution_of_the_exact_vector(pulls, policy):
    """100,000 pulls within binomial bounds of 1e-8 of the vector that a server draws from."""
    counts = pulls(ONE_RUN, 100_000, np.random.default_rng(20260141))[0]
    arms = BetaArms.from_totals(ArmTotals(ONE_RUN.n[0], ONE_RUN.sum[0], ONE_RUN.sum[0], np.zeros(3)))
    shares = policy(arms, exploration_floor=0).shares
    assert (counts >= stats.binom.ppf(1e-8, 100_000, shares)).all()
    assert (counts <= stats.binom.isf(1e-8, 100_000, shares)).all()


def test_a_floor_in_simulation_is_the_floor_of_the_exact_vector():
    """Thompson with a floor of 0.2, one run after the other by quadrature, and by replacing pulls."""
    rng, floor = np.random.default_rng(20260145), 0.2
    drawn = with_floor_pulls(thompson_pulls, floor)(ONE_RUN, 100_000, rng)[0]
    exact = exact_pulls(lambda seen: thompson(BetaArms.from_totals(seen), exploration_floor=floor))
    reference = exact(ONE_RUN, 100_000, rng)[0]
    assert drawn.sum() == reference.sum() == 100_000
    assert stats.chi2_contingency([drawn, reference]).pvalue > 1e-6


def test_capped_draws_leave_the_expected_pulls_as_they_are():
    """Mean over 2,000 runs of batches of 5,000 pulls from 50 draws, within 5 standard errors of the exact."""
    runs = 2_000
    fields = (ONE_RUN.n, ONE_RUN.sum, ONE_RUN.sum_squares, ONE_RUN.pending)
    totals = ArmTotals(*(np.repeat(field, runs, axis=0) for field in fields))
    rng = np.random.default_rng(20260142)
    pulls = capped_pulls(thompson_pulls, 50)(totals, 5_000, rng)
    assert (pulls.sum(axis=1) == 5_000).all()
    arms = BetaArms.from_totals(ArmTotals(ONE_RUN.n[0], ONE_RUN.sum[0], ONE_RUN.sum[0], np.zeros(3)))
    expected = 5_000 * thompson(arms, exploration_floor=0).shares
    error = pulls.std(axis=0, ddof=1) / np.sqrt(runs)
    assert (np.abs(pulls.mean(axis=0) - expected) < 5 * error).all()
    few = capped_pulls(thompson_pulls, 50)(totals, 50, np.random.default_rng(1))
    assert np.array_equal(few, thompson_pulls(totals, 50, np.random.default_rng(1)))


def test_a_floor_of_exponential_weights_is_in_the_shares_that_it_learns_from():
    known = np.array([[[0.0, 1e9]]])
    pulls, shares = Exp3Ix(0.05, exploration_floor=0.1).draw(known, known[0], 10, np.random.default_rng(1))
    assert shares == pytest.approx(np.array([[0.95, 0.05]]))
    assert pulls.sum() == 10
