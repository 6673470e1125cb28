"""Normal and Gamma arms: posteriors, P(best) and expected loss against scipy; draws that follow P(best)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bandits.arms import BetaArms, GammaArms, NormalArms
from bandits.best import (
    expected_loss,
    probability_best,
    probability_best_feasible,
    probability_best_optimistic,
)
from bandits.totals import ArmTotals
from stats.errors import InvalidInput
from stats.totals import MeanTotals

NORMAL = NormalArms(np.array([0.1, 0.3, 0.2]), np.array([0.5, 0.1, 0.3]), np.array([3.0, 8, 100]))
FAMILIES = {
    "beta": BetaArms(np.array([3.0, 40, 5]), np.array([4.0, 50, 3])),
    "normal": NORMAL,
    "gamma": GammaArms(np.array([1.0, 30, 4]), np.array([1.0, 25, 5])),
}


def by_fine_panels(distributions, jacobian=np.ones_like):
    """P(best) and expected loss from scipy's functions, on panels cut at many quantiles of every arm."""
    levels = 10.0 ** -np.arange(16, 1, -1.5)
    quantiles = [
        np.concatenate([one.ppf(levels), one.ppf(np.linspace(0.05, 0.95, 13)), one.isf(levels)])
        for one in distributions
    ]
    cuts = np.unique(np.concatenate(quantiles))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    half, middle = np.diff(cuts) / 2, (cuts[1:] + cuts[:-1]) / 2
    x, weight = (middle[:, None] + half[:, None] * nodes).ravel(), (half[:, None] * weights).ravel()
    below = np.array([one.cdf(x) for one in distributions])
    above = np.array([one.sf(x) for one in distributions])
    density = np.array([one.pdf(x) for one in distributions])
    best, loss = [], []
    for arm in range(len(distributions)):
        best.append((density[arm] * np.delete(below, arm, axis=0).prod(axis=0) * weight).sum())
        others = np.log1p(-np.minimum(np.delete(above, arm, axis=0), 1 - 1e-16)).sum(axis=0)
        loss.append((below[arm] * -np.expm1(others) * weight * jacobian(x)).sum())
    return np.array(best), np.array(loss)


normal = st.tuples(st.floats(-1, 1), st.floats(-2, 0.5), st.sampled_from([3.0, 5.0, 20.0, 1e3, 1e9]))


@settings(max_examples=40, deadline=None)
@given(st.lists(normal, min_size=2, max_size=4))
def test_normal_arms_agree_with_student_t_of_scipy(drawn):
    location, exponent, degrees = np.array(drawn).T
    arms = NormalArms(location, 10**exponent, degrees)
    best, loss = by_fine_panels([stats.t(*arm) for arm in zip(degrees, location, 10**exponent, strict=True)])
    assert probability_best(arms) == pytest.approx(best, abs=1e-6)
    assert expected_loss(arms) == pytest.approx(loss, abs=1e-6 * 10 ** exponent.max())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 5), st.floats(-1, 1)), min_size=2, max_size=4))
def test_gamma_arms_agree_with_log_gamma_of_scipy(drawn):
    shape, mean = 10 ** np.array(drawn).T
    arms = GammaArms(shape, shape / mean)
    logarithms = [stats.loggamma(a, loc=np.log(m / a)) for a, m in zip(shape, mean, strict=True)]
    best, loss = by_fine_panels(logarithms, np.exp)
    assert probability_best(arms) == pytest.approx(best, abs=1e-7)
    assert expected_loss(arms) == pytest.approx(loss, abs=1e-6 * np.sqrt(arms.variance.max()))


def test_twenty_normal_arms_of_all_sizes_agree_with_scipy():
    rng = np.random.default_rng(20260103)
    location, scale = rng.normal(size=20), 10 ** rng.uniform(-3, 0, size=20)
    degrees = rng.choice([2.0, 4.0, 50.0, 1e6], size=20)
    best, _ = by_fine_panels([stats.t(*arm) for arm in zip(degrees, location, scale, strict=True)])
    assert probability_best(NormalArms(location, scale, degrees)) == pytest.approx(best, abs=1e-7)


def test_a_common_offset_costs_no_digits():
    near = NORMAL
    far = NormalArms(near.location + 2.0**40, near.scale, near.degrees)
    assert probability_best(far) == pytest.approx(probability_best(near), abs=1e-3)


def test_the_posterior_of_a_mean_is_the_worked_one():
    """And agrees with bayesian updating in two halves, since the prior is conjugate."""
    arms = NormalArms.from_totals([MeanTotals(2, 0.5, 0.5), MeanTotals()])
    assert arms.location.tolist() == [0.5, 0.5]
    assert arms.degrees.tolist() == [4, 2]
    assert arms.scale == pytest.approx([np.sqrt(1 / 12), 0.5])


def test_gamma_posteriors_count():
    totals = ArmTotals(np.array([3.0]), np.array([4.0]), np.array([10.0]), np.zeros(1))
    arms = GammaArms.from_totals(totals)
    assert (arms.shape[0], arms.rate[0]) == (4.5, 3.5)
    assert arms.mean == pytest.approx(9 / 7)


@pytest.mark.parametrize("arms", FAMILIES.values(), ids=FAMILIES)
def test_moments_and_tails_are_those_of_the_draws(arms):
    """200,000 draws: each mean within 6 of its standard errors, each tail within its binomial bounds."""
    draws = arms.draw(np.random.default_rng(20260104), 200_000)
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - arms.mean) < 6 * error).all()
    below = arms.probability_below(0.4)
    bound = stats.binom.isf(1e-8, len(draws), np.stack([below, 1 - below]))
    assert ((draws <= 0.4).sum(axis=0) <= bound[0]).all()
    assert ((draws > 0.4).sum(axis=0) <= bound[1]).all()


def never_wins_too_often(winners, probability):
    n = len(winners)
    wins = np.bincount(winners, minlength=len(probability))
    low, high = stats.binom.ppf(1e-8, n, probability), stats.binom.isf(1e-8, n, probability)
    return ((wins >= low) & (wins <= high)).all()


@pytest.mark.parametrize("sampling", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("arms", FAMILIES.values(), ids=FAMILIES)
def test_optimistic_probabilities_are_the_frequencies_of_their_definition(arms, sampling):
    rng = np.random.default_rng(20260105)
    draws = arms.draw(rng, 200_000)
    score = np.where(rng.random(draws.shape) < sampling, np.maximum(draws, arms.mean), arms.mean)
    probability = probability_best_optimistic(arms, sampling)
    assert probability.sum() == pytest.approx(1, abs=1e-12)
    assert never_wins_too_often(score.argmax(axis=1), probability)
    assert not never_wins_too_often(draws.argmax(axis=1), probability)  # planted: Thompson sampling


def test_optimistic_probabilities_are_the_worked_ones():
    known = BetaArms(np.array([1.0, 3e11]), np.array([1.0, 7e11]))
    assert probability_best_optimistic(known, 1.0) == pytest.approx([1, 0], abs=1e-6)
    better = BetaArms(np.array([1.0, 6e11]), np.array([1.0, 4e11]))
    assert probability_best_optimistic(better, 0.8) == pytest.approx([0.32, 0.68], abs=1e-6)
    equal = BetaArms(np.ones(2), np.ones(2))
    assert probability_best_optimistic(equal, 1.0) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("sampling", [1.0, 0.6])
def test_optimistic_probabilities_of_two_arms_are_integrals_done_by_hand(sampling):
    """Scores as May, Korda, Lee & Leslie (2012), section 3.2, define them: the greater of mean and draw.

    Beta(2, 1) and Beta(1, 2) have the means 2/3 and 1/3. The second wins by a draw y above 2/3 and above what
    the first has drawn: the integral of 2 (1 - y) y^2 from there to 1, 11/162; by any y above 2/3, which is
    1/9, where the first does not draw. Thompson sampling gives it 1/6.
    """
    arms = BetaArms(np.array([2.0, 1]), np.array([1.0, 2]))
    expected = sampling**2 * 11 / 162 + sampling * (1 - sampling) / 9
    assert probability_best_optimistic(arms, sampling)[1] == pytest.approx(expected, abs=1e-9)


def test_of_equal_means_the_less_certain_arm_is_preferred():
    """Normal, deviations 1 and sqrt 3. With X the draws less the mean, the second wins by P(X2 > 0, X2 > X1),
    an orthant of correlation sqrt(3) / 2: 1/4 + arcsin / 2 pi = 5/12 (Sheppard); the first by 1/3; and of the
    rest, 1/4, each gets a half. Thompson sampling gives 1/2.
    """
    arms = NormalArms(np.full(2, 0.3), np.sqrt([0.01, 0.03]), np.full(2, 1e9))
    assert probability_best_optimistic(arms, 1.0) == pytest.approx([11 / 24, 13 / 24], abs=1e-7)


def test_optimistic_probabilities_of_normal_arms_are_orthants_of_another_library():
    """Of unequal means the second wins with P(X2 > mean1, X2 > X1): scipy's bivariate normal distribution."""
    (first, second), (s, t) = (0.5, 0.35), (0.1, 0.2)
    arms = NormalArms(np.array([first, second]), np.array([s, t]), np.full(2, 1e9))
    gap, covariance = second - first, [[t**2, t**2], [t**2, s**2 + t**2]]
    expected = stats.multivariate_normal([0, 0], covariance).cdf([gap, gap])
    assert probability_best_optimistic(arms, 1.0)[1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("arms", FAMILIES.values(), ids=FAMILIES)
def test_the_best_feasible_arm_is_best_as_often_as_in_draws(arms):
    rng, feasible = np.random.default_rng(20260106), np.array([0.2, 0.9, 0.5])
    draws = arms.draw(rng, 200_000)
    score = np.where(rng.random(draws.shape) < feasible, draws, -np.inf)
    probability, none = probability_best_feasible(arms, feasible)
    assert none == pytest.approx(0.8 * 0.1 * 0.5)
    assert probability.sum() + none == pytest.approx(1, abs=1e-12)
    winners = np.where(np.isinf(score).all(axis=1), 3, score.argmax(axis=1))
    assert never_wins_too_often(winners, np.append(probability, none))


def test_an_arm_that_is_never_feasible_is_never_best():
    probability, none = probability_best_feasible(FAMILIES["beta"], np.zeros(3))
    assert (probability.tolist(), none) == ([0, 0, 0], 1)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: NormalArms(np.zeros(2), np.array([1.0, 0.0]), np.full(2, 5.0)),
        lambda: NormalArms(np.zeros(2), np.ones(2), np.full(2, 1.0)),
        lambda: NormalArms(np.zeros(2), np.ones(3), np.full(2, 5.0)),
        lambda: NormalArms(np.array([np.nan]), np.ones(1), np.full(1, 5.0)),
        lambda: NormalArms.from_totals([MeanTotals()], prior_n=0),
        lambda: GammaArms(np.zeros(1), np.ones(1)),
        lambda: probability_best_feasible(FAMILIES["beta"], np.array([0.5, 0.5])),
        lambda: probability_best_optimistic(FAMILIES["beta"], 0.0),
    ],
)
def test_what_is_no_posterior_is_refused(refused):
    with pytest.raises(InvalidInput):
        refused()
