"""Decisions in a context: the vector that is returned, against references, and in play."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import log_ndtr

from bandits.contextual import LinearArms, probability_greatest, thompson, ucb
from stats.errors import InvalidInput


def by_fine_panels(mean, deviation):
    """P(greatest) by Gauss-Legendre with 12 nodes on panels half a deviation wide."""
    steps = np.linspace(-8, 8, 33)[:, None]
    edges = np.unique(steps * deviation + mean)
    edges = np.append((mean - 8 * deviation).max(), edges[edges > (mean - 8 * deviation).max()])
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges) / 2
    points = (((edges[:-1] + half)[:, None]) + half[:, None] * nodes).ravel()
    z = (points[:, None] - mean) / deviation
    logs = log_ndtr(z)
    terms = np.exp(-z * z / 2 - logs + logs.sum(axis=1)[:, None]) / np.sqrt(2 * np.pi) / deviation
    return (half[:, None] * weights).ravel() @ terms


def random_arms(rng, n_arms, spread):
    deviation = 10.0 ** rng.uniform(-spread, 0, n_arms)
    return rng.normal(size=n_arms) * rng.choice([0, 0.3, 1, 3]) * deviation**0.5, deviation


def test_the_worked_case_holds():
    expected = [stats.norm.cdf(1), stats.norm.cdf(-1)]
    assert probability_greatest(np.array([1.0, 0]), np.array([0.6, 0.8])) == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("n_arms", [2, 3, 8, 50])
def test_the_stated_accuracy_holds_whatever_the_deviations(n_arms):
    rng = np.random.default_rng(20260101 + n_arms)
    cases = [random_arms(rng, n_arms, spread) for spread in (0, 1, 2, 4) for _ in range(15)]
    errors = np.array([probability_greatest(*case) - by_fine_panels(*case) for case in cases])
    assert abs(errors).max() <= 0.006
    assert np.sqrt((errors**2).max(axis=1).mean()) <= 0.002 + 0.0005


@pytest.mark.parametrize("n_arms", [3, 8, 50])
def test_scores_of_like_deviations_are_more_accurate_than_that(n_arms):
    """Also where all arms are equal, and where one is ahead of the rest, from alike to a factor of 8."""
    rng, times = np.random.default_rng(20260104 + n_arms), 4 if n_arms == 50 else 20
    cases = [random_arms(rng, n_arms, spread) for spread in (0, 0.1, 0.3, 0.6, 0.9) for _ in range(times)]
    cases += [(mean * (np.arange(n_arms) == 0), deviation) for mean, deviation in cases]
    cases = [case for case in cases if np.ptp(case[0]) < 40 * case[1].min()]
    errors = np.array([probability_greatest(*case) - by_fine_panels(*case) for case in cases])
    assert abs(errors).max() <= 0.0015


def test_three_arms_agree_with_a_large_simulation():
    """Two million draws: 0.0015 for the method and five standard errors."""
    mean, deviation = np.array([0.1, 0, -0.2]), np.array([0.2, 0.5, 1.0])
    draws = np.random.default_rng(20260102).normal(mean, deviation, (2_000_000, 3)).argmax(axis=1)
    share = np.bincount(draws, minlength=3) / len(draws)
    assert probability_greatest(mean, deviation) == pytest.approx(
        share, abs=0.0015 + 5 * 0.5 / len(draws) ** 0.5
    )


arms_and_context = st.tuples(st.integers(2, 10), st.integers(1, 12), st.integers(0, 10**6), st.floats(0, 1))


def arms_of(n_arms, d, seed, scale=0.3):
    rng = np.random.default_rng(seed)
    return LinearArms(rng.normal(size=(n_arms, d)), scale * rng.normal(size=(n_arms, d, d))), rng.normal(
        size=d
    )


@settings(deadline=None, max_examples=60)
@given(arms_and_context)
def test_shares_keep_the_floor_sum_to_one_and_follow_a_permutation_of_arms(case):
    n_arms, d, seed, floor = case
    arms, x = arms_of(n_arms, d, seed)
    order = np.random.default_rng(seed).permutation(n_arms)
    permuted = LinearArms(arms.means[order], arms.factors[order])
    for decide in (thompson, ucb):
        shares = decide(arms, x, exploration_floor=floor)
        assert shares.sum() == pytest.approx(1, abs=1e-12)
        assert (shares >= floor / n_arms - 1e-15).all()
        assert decide(permuted, x, exploration_floor=floor) == pytest.approx(shares[order], abs=1e-9)


def test_drawn_frequencies_are_the_shares():
    arms, x = arms_of(5, 3, 1)
    shares = thompson(arms, x, exploration_floor=0.1)
    drawn = np.random.default_rng(20260103).choice(5, p=shares, size=100_000)
    counts = np.bincount(drawn, minlength=5)
    assert (counts >= stats.binom.ppf(1e-7, 100_000, shares)).all()
    assert (counts <= stats.binom.isf(1e-7, 100_000, shares)).all()


def test_scores_scaled_and_shifted_together_decide_the_same():
    mean, deviation = np.array([0.3, 0.1, 0.2]), np.array([0.1, 0.2, 0.4])
    moved = probability_greatest(1000 * mean - 5, 1000 * deviation)
    assert moved == pytest.approx(probability_greatest(mean, deviation), abs=1e-9)


def test_certain_scores_and_equal_scores_stay_finite():
    still = LinearArms(np.array([[1.0, 0], [0, 0], [0, 0]]), np.zeros((3, 2, 2)))
    assert thompson(still, np.array([1.0, 0]), exploration_floor=0) == pytest.approx([1, 0, 0])
    assert thompson(still, np.zeros(2), exploration_floor=0) == pytest.approx([1 / 3] * 3)
    assert ucb(still, np.zeros(2), exploration_floor=0) == pytest.approx([1 / 3] * 3)


def test_ucb_takes_the_greatest_bound():
    arms = LinearArms(np.array([[0.5], [0.4]]), np.array([[[0.1]], [[0.2]]]))
    x = np.ones(1)
    assert ucb(arms, x, width=0.5, exploration_floor=0.1) == pytest.approx([0.95, 0.05])
    assert ucb(arms, x, width=2, exploration_floor=0.1) == pytest.approx([0.05, 0.95])


def test_a_covariance_comes_back_from_its_factor():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(2, 4, 4))
    covariances = root @ root.swapaxes(1, 2)
    factors = LinearArms.of(np.zeros((2, 4)), covariances).factors
    assert factors.swapaxes(1, 2) @ factors == pytest.approx(covariances, abs=1e-10)


def test_nonsense_is_refused():
    arms, x = arms_of(2, 2, 0)
    with pytest.raises(InvalidInput, match="exploration_floor"):
        thompson(arms, x, exploration_floor=1.1)
    with pytest.raises(InvalidInput, match="width"):
        ucb(arms, x, width=-1, exploration_floor=0)
    with pytest.raises(InvalidInput, match="finite"):
        LinearArms(np.full((2, 2), np.nan), np.zeros((2, 2, 2)))
    with pytest.raises(InvalidInput, match="no arms"):
        LinearArms(np.zeros((2, 2)), np.zeros((2, 2, 3)))
