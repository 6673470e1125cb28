"""From totals to posteriors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bandits.arms import ANSWERS_MAX, BetaArms, GammaArms, NormalArms, answers_per_reward
from bandits.best import probability_best_feasible, probability_best_optimistic
from bandits.totals import ArmTotals
from stats.errors import InvalidInput
from stats.totals import MeanTotals, RewardTotals


def of_rewards(*arms):
    """Totals of the rewards of each arm."""
    return ArmTotals.of(
        [RewardTotals(len(arm), float(np.sum(arm)), float(np.square(arm).sum())) for arm in arms]
    )


def test_a_fractional_reward_counts_as_the_answers_it_is_worth():
    """Rewards 1, 0 and 1/2: 8/7 answers each, hence 12/7 successes and as many failures."""
    arms = BetaArms.from_totals([RewardTotals(3, 1.5, 1.25), RewardTotals()])
    assert arms.alpha == pytest.approx([1 + 12 / 7, 1.0])
    assert arms.beta == pytest.approx([1 + 12 / 7, 1.0])
    assert arms.mean == pytest.approx([0.5, 0.5])


@given(
    counts=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=6),
    spread=st.floats(0, 0.5),
    factor=st.floats(1e-6, 1),
)
def test_rewards_of_0_and_1_count_once_to_the_bit_whatever_other_arms_earn(counts, spread, factor):
    n = np.array([wins + losses for wins, losses in counts] + [50.0])
    wins = np.array([float(wins) for wins, _ in counts] + [25.0])
    squares = wins.copy()
    squares[-1] = 50 * (0.25 + spread**2)
    totals = ArmTotals(n, wins, squares, np.zeros_like(n)).weighted(factor)
    assert (answers_per_reward(totals)[:-1] == 1).all()
    arms = BetaArms.from_totals(totals)
    assert (arms.alpha[:-1] == 1 + factor * wins[:-1]).all()
    assert (arms.beta[:-1] == 1 + (factor * n - factor * wins)[:-1]).all()


@given(st.lists(st.lists(st.floats(0, 1), max_size=30), min_size=1, max_size=5), st.randoms())
def test_a_reward_is_worth_an_answer_at_least_and_arms_may_come_in_any_order(rewards, random):
    worth = answers_per_reward(of_rewards(*rewards))
    assert (worth >= 1).all()
    order = list(range(len(rewards)))
    random.shuffle(order)
    assert (answers_per_reward(of_rewards(*(rewards[arm] for arm in order))) == worth[order]).all()


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.floats(0, 1))
def test_rewards_closer_to_their_mean_are_worth_more(rewards, factor):
    closer = np.mean(rewards) + factor * (np.array(rewards) - np.mean(rewards))
    apart, near = answers_per_reward(of_rewards(rewards, closer))
    assert near >= apart * (1 - 1e-9)


@pytest.mark.parametrize("concentration", [0.5, 4.0, 49.0])
@pytest.mark.parametrize("mean", [0.1, 0.5, 0.85])
def test_of_many_beta_rewards_each_is_worth_their_concentration_and_1(mean, concentration):
    """Rewards from Beta(c m, c (1 - m)) have the variance m (1 - m) / (c + 1)."""
    rng = np.random.default_rng(20260160)
    rewards = rng.beta(concentration * mean, concentration * (1 - mean), 200_000)
    (worth,) = answers_per_reward(of_rewards(rewards))
    assert worth == pytest.approx(concentration + 1, rel=0.02)


def test_few_rewards_that_agree_are_not_certain_and_many_are_limited():
    assert answers_per_reward(of_rewards([0.5], [0.5, 0.5], [0.3] * 5)).tolist() == pytest.approx(
        [1, 1.5, 2.05]
    )
    n = np.array([1e7, 1e10])
    totals = ArmTotals(n, 0.5 * n, 0.25 * n, np.zeros(2))
    assert answers_per_reward(totals).tolist() == [ANSWERS_MAX / 1e7, 1.0]
    BetaArms.from_totals(totals)


def test_squares_that_no_rewards_have_say_nothing():
    assert answers_per_reward(
        ArmTotals.of([RewardTotals(10, 5.0, 0.0), RewardTotals(10, 5.0, 2.4)])
    ).tolist() == [1, 1]


def test_segments_of_an_arm_are_alike_in_how_rewards_vary_about_their_means():
    rng = np.random.default_rng(20260161)
    rewards = [rng.beta(19 * mean, 19 * (1 - mean), (2_000, 4)) for mean in (0.2, 0.8)]
    n = np.full((4_000, 1), 4.0)
    groups = np.concatenate(rewards)
    totals = ArmTotals(n, groups.sum(1)[:, None], np.square(groups).sum(1)[:, None], 0 * n)
    assert answers_per_reward(totals, alike_over=0) == pytest.approx([20.0], rel=0.05)
    assert answers_per_reward(of_rewards(groups.ravel()))[0] < 3


def coverage(reading, *, n, seed, runs=4_000):
    """In how many of the runs the central 95 % of the posterior hold the mean, 0.3, of Beta(3, 7) rewards."""
    rewards = np.random.default_rng(seed).beta(3, 7, (runs, n))
    arms = reading(
        ArmTotals(np.full(runs, float(n)), rewards.sum(1), np.square(rewards).sum(1), np.zeros(runs))
    )
    below = arms.probability_below(0.3)
    return np.count_nonzero((below > 0.025) & (below < 0.975))


@pytest.mark.parametrize("n", [2, 5, 20, 100, 1_000])
def test_posteriors_of_fractional_rewards_hold_the_mean_as_often_as_they_say(n):
    """A right one falls below the limit with probability 1e-6. Planted bug: rewards count twice."""

    def overconfident(totals):
        worth = 2 * answers_per_reward(totals)
        return BetaArms(1 + worth * totals.sum, 1 + worth * (totals.n - totals.sum))

    least = stats.binom.ppf(1e-6, 4_000, 0.95)
    assert coverage(BetaArms.from_totals, n=n, seed=20260162) >= least
    if n >= 100:
        assert coverage(overconfident, n=n, seed=20260162) < least


def test_the_prior_counts_as_rewards_seen_before():
    arms = BetaArms.from_totals([RewardTotals(10, 4, 4)], prior_alpha=2, prior_beta=8)
    assert (arms.alpha[0], arms.beta[0]) == (6, 14)


def test_totals_of_rewards_outside_the_unit_interval_are_refused():
    with pytest.raises(ValueError, match=r"rewards must be in \[0, 1\]"):
        BetaArms.from_totals([RewardTotals(2, 2.5, 3.0)])


@pytest.mark.parametrize(
    ("alpha", "beta"),
    [([1.0], [1.0, 2.0]), ([], []), ([1e-4], [1.0]), ([1.0], [float("inf")]), ([float("nan")], [1.0])],
)
def test_what_is_no_beta_is_refused(alpha, beta):
    with pytest.raises(ValueError, match="alpha and beta must"):
        BetaArms(np.array(alpha, dtype=np.float64), np.array(beta, dtype=np.float64))


NORMAL = NormalArms(np.array([0.1, 0.3, 0.2]), np.array([0.5, 0.1, 0.3]), np.array([3.0, 8, 100]))


FAMILIES = {
    "beta": BetaArms(np.array([3.0, 40, 5]), np.array([4.0, 50, 3])),
    "normal": NORMAL,
    "gamma": GammaArms(np.array([1.0, 30, 4]), np.array([1.0, 25, 5])),
}


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
