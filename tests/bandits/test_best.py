"""P(best) and expected loss against closed forms, scipy's adaptive quadrature and simulation."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from bandits.arms import BetaArms, GammaArms, NormalArms
from bandits.best import (
    expected_loss,
    probability_best,
    probability_best_feasible,
    probability_best_optimistic,
)

parameters = st.one_of(
    st.floats(min_value=1e-3, max_value=2.0),
    st.floats(min_value=0.0, max_value=9.0).map(lambda exponent: 10.0**exponent),
)
several_arms = st.lists(st.tuples(parameters, parameters), min_size=1, max_size=6)


def arms_of(*pairs):
    alpha, beta = np.array(pairs, dtype=np.float64).T
    return BetaArms(alpha, beta)


def second_is_better(alpha_1, beta_1, alpha_2, beta_2):
    """P(Beta_2 > Beta_1) for a whole alpha_2, as a finite sum (E. Miller, Bayesian A/B formulas)."""
    i = np.arange(alpha_2)
    log_terms = (
        special.betaln(alpha_1 + i, beta_1 + beta_2)
        - np.log(beta_2 + i)
        - special.betaln(1 + i, beta_2)
        - special.betaln(alpha_1, beta_1)
    )
    return np.exp(log_terms).sum()


def by_adaptive_quadrature(arms):
    """The same integrals over [0, 1], from scipy: incomplete beta, QUADPACK, cut at quantiles."""
    betas = list(zip(arms.alpha, arms.beta, strict=True))
    tails = np.array([1e-12, 1e-6, 1e-3, 0.05, 0.3, 0.7, 0.95, 1 - 1e-3, 1 - 1e-6, 1 - 1e-12])
    cuts = np.unique(
        np.concatenate([[0.0, 1.0], *(special.betaincinv(*one, tails).round(12) for one in betas)])
    )
    best, loss = [], []
    for own in betas:
        alpha, beta = own
        others = [other for other in betas if other is not own]

        def win(x, alpha=alpha, beta=beta, others=others):
            log_density = (
                (alpha - 1) * math.log(x) + (beta - 1) * math.log1p(-x) - special.betaln(alpha, beta)
            )
            return math.exp(log_density) * math.prod(special.betainc(*other, x) for other in others)

        def lose(x, own=own, others=others):
            return special.betainc(*own, x) * (1 - math.prod(special.betainc(*other, x) for other in others))

        best.append(sum(integrate.quad(win, a, b, epsabs=1e-10)[0] for a, b in pairwise(cuts)))
        loss.append(sum(integrate.quad(lose, a, b, epsabs=1e-10)[0] for a, b in pairwise(cuts)))
    return np.array(best), np.array(loss)


def test_the_worked_cases_hold():
    assert probability_best(arms_of((2, 1), (1, 1))) == pytest.approx([2 / 3, 1 / 3], abs=1e-12)
    assert expected_loss(arms_of((1, 1), (1, 1))) == pytest.approx([1 / 6, 1 / 6], abs=1e-9)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 1), (1, 1)),
        ((3, 5), (7, 9)),
        ((200, 300), (5, 8)),
        ((1e4, 3e4), (2, 5)),
        ((100, 10_000), (150, 10_000)),
        ((0.01, 1), (1, 1)),
        ((1e-3, 1e-3), (4, 4)),
        ((1e-3, 1e6), (1, 1e6)),
        ((0.5, 0.5), (3_000, 3)),
    ],
)
def test_two_arms_agree_with_the_finite_sum(first, second):
    expected = second_is_better(*first, *second)
    assert probability_best(arms_of(first, second))[1] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "arms",
    [
        arms_of((5, 15), (9, 11), (4, 4)),
        arms_of((2, 3), (400, 600), (90_000, 110_000)),
        arms_of((1.5, 1.2), (1.1, 2.0), (1, 1)),
        arms_of((11, 31), (12, 32), (1_300, 3_300), (3, 9), (140_000, 350_000)),
        arms_of((1, 3_000), (4, 9_000), (2, 2_000), (1, 1)),
        arms_of((3_000, 1), (9_000, 4), (2_000, 2), (1, 1)),
    ],
)
def test_arms_of_any_size_agree_with_adaptive_quadrature(arms):
    best, loss = by_adaptive_quadrature(arms)
    assert probability_best(arms) == pytest.approx(best, abs=1e-8)
    assert expected_loss(arms) == pytest.approx(loss, abs=1e-8)


def test_a_known_arm_against_an_unknown_one_is_the_tail_of_the_unknown():
    """Beta(3e8, 7e8) is 0.3 but for 1.5e-5: the other is better with P(theta > 0.3)."""
    unknown = stats.beta(2, 3)
    arms = arms_of((3e8, 7e8), (2, 3))
    assert probability_best(arms)[1] == pytest.approx(unknown.sf(0.3), abs=1e-8)
    above = unknown.expect(lambda x: x - 0.3, lb=0.3)
    below = unknown.expect(lambda x: 0.3 - x, ub=0.3)
    assert expected_loss(arms) == pytest.approx([above, below], abs=1e-8)


@pytest.mark.parametrize("n", [1e9, 1e12])
def test_two_large_arms_agree_with_the_normal_limit(n):
    """One standard error of the difference apart."""
    gap = np.sqrt(2 * 0.25 / n) * n
    arms = arms_of((n / 2, n / 2), (n / 2 + gap, n / 2 - gap))
    assert probability_best(arms)[1] == pytest.approx(stats.norm.cdf(1), abs=1e-8)


@pytest.mark.parametrize("n_arms", [2, 7, 50])
@pytest.mark.parametrize("size", [1e-3, 0.3, 1.0, 1e3, 1e9])
def test_equal_arms_are_best_equally_often(n_arms, size):
    arms = arms_of(*[(size, 2 * size)] * n_arms)
    assert probability_best(arms) == pytest.approx(np.full(n_arms, 1 / n_arms), abs=1e-9)


def test_fifty_arms_agree_with_simulation():
    """Each share lies within the exact binomial bounds of 200,000 draws, missed with probability 1e-6."""
    rng = np.random.default_rng(20260101)
    sizes = 10.0 ** rng.uniform(0, 5, size=50)
    rates = rng.uniform(0.3, 0.5, size=50)
    arms = BetaArms(1 + sizes * rates, 1 + sizes * (1 - rates))
    draws = 200_000
    winners = rng.beta(arms.alpha, arms.beta, size=(draws, 50)).argmax(axis=1)
    wins = np.bincount(winners, minlength=50)
    probability = probability_best(arms)
    tail = 1e-6 / 50 / 2
    assert (wins >= stats.binom.ppf(tail, draws, probability)).all()
    assert (wins <= stats.binom.isf(tail, draws, probability)).all()


def test_one_arm_is_best():
    assert probability_best(arms_of((3, 4))) == pytest.approx([1.0])
    assert expected_loss(arms_of((3, 4))) == pytest.approx([0.0], abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(several_arms)
# The logistic function bends where a panel of a density with a long tail used to straddle it.
@example([(1.0, 1e6), (0.125, 0.001)])
def test_probabilities_sum_to_one_and_losses_balance(pairs):
    arms = arms_of(*pairs)
    probability, loss = probability_best(arms), expected_loss(arms)
    assert (probability >= 0).all()
    assert probability.sum() == pytest.approx(1, abs=1e-12)
    assert (loss >= -1e-12).all()
    # loss_i + mean_i is E[max] for every arm.
    assert loss + arms.mean == pytest.approx(np.full(len(pairs), (loss + arms.mean)[0]), abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(several_arms, st.randoms(use_true_random=False))
def test_permuting_the_arms_permutes_the_answer(pairs, random):
    order = list(range(len(pairs)))
    random.shuffle(order)
    arms = arms_of(*pairs)
    permuted = BetaArms(arms.alpha[order], arms.beta[order])
    assert probability_best(permuted) == pytest.approx(probability_best(arms)[order], abs=1e-12)
    assert expected_loss(permuted) == pytest.approx(expected_loss(arms)[order], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(several_arms)
def test_the_mirror_image_turns_best_of_two_around(pairs):
    """1 - Beta(a, b) is Beta(b, a): the better of two arms is the worse of their mirror images."""
    pairs = (pairs * 2)[:2]
    arms = arms_of(*pairs)
    mirrored = BetaArms(arms.beta, arms.alpha)
    assert probability_best(mirrored) == pytest.approx(1 - probability_best(arms), abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(st.tuples(parameters, parameters), st.integers(1, 40), st.tuples(parameters, parameters))
def test_two_arms_agree_with_the_finite_sum_wherever_it_is_exact(first, alpha, second):
    beta = second[1]
    largest = max(*first, beta)
    expected = second_is_better(first[0], first[1], alpha, beta)
    # The sum itself loses digits: log-beta of large arguments is a difference of numbers of their size.
    tolerance = 1e-9 + 1e-13 * largest
    assert probability_best(arms_of(first, (alpha, beta)))[1] == pytest.approx(expected, abs=tolerance)


def by_fine_panels(arms):
    """P(best) on the logit scale, cut at 43 quantiles an arm, 24 nodes a panel, of many arms 8."""
    alpha, beta = arms.alpha[:, None], arms.beta[:, None]
    tails = 10.0 ** -np.arange(14, 1, -1)
    levels = np.concatenate([tails, np.linspace(0.05, 0.95, 17), 1 - tails[::-1]])
    quantiles = special.betaincinv(alpha, beta, levels)
    cuts = special.logit(np.clip(quantiles, 1e-300, 1 - 1e-16)).ravel()
    peak, spread = np.log(alpha / beta), 9 * np.sqrt((alpha + beta) / alpha / beta)
    low, high = (peak - spread - 36 / alpha).min(), (peak + spread + 36 / beta).max()
    cuts = np.unique(np.concatenate([cuts[(low < cuts) & (cuts < high)], np.linspace(low, high, 200)]))
    nodes, weights = np.polynomial.legendre.leggauss(24 if len(arms.alpha) < 10 else 8)
    half, middle = np.diff(cuts) / 2, (cuts[1:] + cuts[:-1]) / 2
    t, weight = (middle[:, None] + half[:, None] * nodes).ravel(), (half[:, None] * weights).ravel()
    below = special.betainc(alpha, beta, special.expit(t))
    above = special.betainc(beta, alpha, special.expit(-t))
    distribution = np.where(t < 0, below, 1 - above)
    density = np.exp(log_density(t - peak, alpha, beta))
    density /= (density * weight).sum(axis=1, keepdims=True)
    others = [np.delete(distribution, index, axis=0).prod(axis=0) for index in range(len(alpha))]
    return (density * others * weight).sum(axis=1)


def log_density(from_peak, alpha, beta):
    """Of t = logit(theta), relative to its peak; a difference of small numbers even where alpha is large."""
    n, left, right = alpha + beta, np.minimum(from_peak, 0), np.maximum(from_peak, 0)
    before = alpha * from_peak - n * np.log1p(alpha / n * np.expm1(left))
    after = -beta * from_peak - n * np.log1p(beta / n * np.expm1(-right))
    return np.where(from_peak < 0, before, after)


wide_parameters = st.floats(min_value=-1.0, max_value=9.0).map(lambda exponent: 10.0**exponent)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(wide_parameters, wide_parameters), min_size=2, max_size=5))
def test_arms_of_any_shape_agree_with_fine_panels(pairs):
    arms = arms_of(*pairs)
    assert probability_best(arms) == pytest.approx(by_fine_panels(arms), abs=1e-7)


@pytest.mark.parametrize("sizes", [(0, 1), (0, 9), (3, 3.2)])
def test_fifty_arms_agree_with_fine_panels(sizes):
    rng = np.random.default_rng(20260102)
    n, rate = 10 ** rng.uniform(*sizes, size=50), rng.uniform(0.2, 0.4, size=50)
    arms = BetaArms(0.5 + n * rate, 0.5 + n * (1 - rate))
    assert probability_best(arms) == pytest.approx(by_fine_panels(arms), abs=1e-8)


NORMAL = NormalArms(np.array([0.1, 0.3, 0.2]), np.array([0.5, 0.1, 0.3]), np.array([3.0, 8, 100]))


def by_distributions(distributions, jacobian=np.ones_like):
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


FAMILIES = {
    "beta": BetaArms(np.array([3.0, 40, 5]), np.array([4.0, 50, 3])),
    "normal": NORMAL,
    "gamma": GammaArms(np.array([1.0, 30, 4]), np.array([1.0, 25, 5])),
}


normal = st.tuples(st.floats(-1, 1), st.floats(-2, 0.5), st.sampled_from([3.0, 5.0, 20.0, 1e3, 1e9]))


@settings(max_examples=40, deadline=None)
@given(st.lists(normal, min_size=2, max_size=4))
def test_normal_arms_agree_with_student_t_of_scipy(drawn):
    location, exponent, degrees = np.array(drawn).T
    arms = NormalArms(location, 10**exponent, degrees)
    best, loss = by_distributions(
        [stats.t(*arm) for arm in zip(degrees, location, 10**exponent, strict=True)]
    )
    assert probability_best(arms) == pytest.approx(best, abs=1e-6)
    assert expected_loss(arms) == pytest.approx(loss, abs=1e-6 * 10 ** exponent.max())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 5), st.floats(-1, 1)), min_size=2, max_size=4))
def test_gamma_arms_agree_with_log_gamma_of_scipy(drawn):
    shape, mean = 10 ** np.array(drawn).T
    arms = GammaArms(shape, shape / mean)
    logarithms = [stats.loggamma(a, loc=np.log(m / a)) for a, m in zip(shape, mean, strict=True)]
    best, loss = by_distributions(logarithms, np.exp)
    assert probability_best(arms) == pytest.approx(best, abs=1e-7)
    assert expected_loss(arms) == pytest.approx(loss, abs=1e-6 * np.sqrt(arms.variance.max()))


def test_twenty_normal_arms_of_all_sizes_agree_with_scipy():
    rng = np.random.default_rng(20260103)
    location, scale = rng.normal(size=20), 10 ** rng.uniform(-3, 0, size=20)
    degrees = rng.choice([2.0, 4.0, 50.0, 1e6], size=20)
    best, _ = by_distributions([stats.t(*arm) for arm in zip(degrees, location, scale, strict=True)])
    assert probability_best(NormalArms(location, scale, degrees)) == pytest.approx(best, abs=1e-7)


def test_a_common_offset_costs_no_digits():
    near = NORMAL
    far = NormalArms(near.location + 2.0**40, near.scale, near.degrees)
    assert probability_best(far) == pytest.approx(probability_best(near), abs=1e-3)


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
