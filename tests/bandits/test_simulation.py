"""Simulated traffic: exact environments, equality in distribution, and the regret gates of the policies."""

from dataclasses import replace

import numpy as np
import pytest

from bandits.arms import NormalArms
from bandits.environments import Change, Changing, Logged, Seasonal, Stationary
from bandits.exp3 import learning_rate
from bandits.greedy import decreasing_epsilon
from bandits.pulls import (
    Exp3Ix,
    FromTotals,
    constant_pulls,
    epsilon_greedy_pulls,
    exact_pulls,
    index_pulls,
    optimistic_pulls,
    thompson_pulls,
)
from bandits.simulation import simulate
from bandits.ucb import INDEXES
from benchmarks.simulated import Tables
from stats.errors import InvalidInput


def even_pulls(totals, size, rng):
    return constant_pulls(np.ones(totals.n_arms))(totals, size, rng)


def normal_pulls(totals, size, rng):
    """Thompson sampling on the posteriors of `NormalArms`."""
    n = totals.n
    arms = NormalArms.from_moments(n.ravel(), totals.mean.ravel(), (n * totals.variance).ravel())
    draws = arms.draw(rng, size).reshape(size, *n.shape)
    return np.eye(totals.n_arms)[draws.argmax(axis=2)].sum(axis=0)


def logged(*arms):
    return Logged({str(arm): tuple(rewards) for arm, rewards in enumerate(arms)})


def run(environment, policy, *, rounds=2_000, batch=20, runs=100, seed=20260140, delay=0):
    rng = np.random.default_rng(seed)
    return simulate(environment, policy, rounds=rounds, batch=batch, runs=runs, rng=rng, delay=delay)


def test_an_even_split_loses_the_average_gap():
    """Regret 2,000 x (0.5 - 0.4) within 6 standard errors; the curve is a line."""
    found = run(Stationary((0.5, 0.3)), FromTotals(even_pulls))
    assert abs(found.mean[-1] - 200) < 6 * found.standard_error
    assert found.mean[49] == pytest.approx(found.mean[-1] / 2, rel=0.05)
    assert found.lost == pytest.approx(0.2, abs=0.01)
    assert (found.lower <= found.mean).all()
    assert (found.mean <= found.upper).all()


LEARNERS = {
    "thompson": FromTotals(thompson_pulls),
    "optimistic_thompson": FromTotals(optimistic_pulls),
    "normal_thompson": FromTotals(normal_pulls),
    **{index: FromTotals(index_pulls(index)) for index in INDEXES},
    "epsilon_greedy": FromTotals(epsilon_greedy_pulls(0.1)),
    "discounted_thompson": FromTotals(thompson_pulls, memory=0.9995),
    "exp3_ix": Exp3Ix(learning_rate(2, 2_000)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_policies_lose_less_than_an_even_split_and_a_blind_one_does_not(name):
    """Mean regret over 20 runs of (0.3, 0.6): 0.6 of an even split's; 0.9 for those that keep exploring.

    Planted bug: rewards credited to the wrong arm lose more than an even split.
    """
    environment, policy = Stationary((0.3, 0.6)), LEARNERS[name]
    even = run(environment, FromTotals(even_pulls)).mean[-1]
    part, runs = (0.9 if name in ("exp3_ix", "ucb1") else 0.6), 20
    assert run(environment, policy, runs=runs).mean[-1] < part * even

    class Swapped(Stationary, frozen=True):
        def draw_rewards(self, rng, mean, pulls, before):
            return super().draw_rewards(rng, mean[::-1], pulls, before)

    # The environment pays the wrong arm, so what is learned is wrong.
    assert run(Swapped((0.3, 0.6)), policy, runs=runs).mean[-1] > part * even


def test_decreasing_epsilon_earns_by_decreasing():
    """20 runs of (0.3, 0.6), gap 0.3: half of an even split's regret. Planted bug: epsilon stays at 1."""
    environment = Stationary((0.3, 0.6))
    even = run(environment, FromTotals(even_pulls)).mean[-1]

    def lost(gap):
        policy = exact_pulls(lambda seen: decreasing_epsilon(seen, gap=gap))
        return run(environment, FromTotals(policy), runs=20).mean[-1]

    assert lost(0.3) < 0.5 * even
    assert lost(1e-3) > 0.5 * even


def test_thompson_sampling_has_the_regret_that_was_published():
    """Means 0.5 and 0.6, 10,000 rounds: 18.7 +- 1.1 (reference simulation, 500 runs); at most 15 % more."""
    found = run(Stationary((0.5, 0.6)), FromTotals(thompson_pulls), rounds=10_000, batch=10, runs=200)
    assert 18.7 - 5 < found.mean[-1] < 1.15 * 18.7 + 3 * found.standard_error


def test_optimistic_thompson_loses_less_than_thompson():
    """Same rewards, 400 runs of (0.1, 0.14): the mean difference is below 0 by 3 standard errors.

    Sampling and drawing apart from optimism, Thompson against itself, must not show that (control).
    """
    tables = Tables((0.1, 0.14), rounds=5_000, runs=400, rng=np.random.default_rng(20260142))

    def final(pulls, seed):
        return run(tables, FromTotals(pulls), rounds=5_000, batch=10, runs=400, seed=seed).final

    base = final(thompson_pulls, 1)

    def z(other):
        return (other - base).mean() / ((other - base).std(ddof=1) / np.sqrt(400))

    assert z(final(optimistic_pulls, 2)) < -3
    assert abs(z(final(thompson_pulls, 2))) < 3


@pytest.mark.parametrize(
    "means", [((0.5, 0.45, 0.4), (0.4, 0.45, 0.5)), ((0.3, 0.2), (0.2, 0.3)), ((0.10, 0.12), (0.14, 0.12))]
)
def test_forgetting_halves_the_regret_after_a_change(means):
    """In the 10,000 rounds after the best arm changed; plain Thompson sampling must fail it."""
    environment = Changing(means[0], (Change(10_000, means[1]),))

    def after(policy):
        found = run(environment, policy, rounds=20_000, batch=100, runs=60)
        return found.mean[-1] - found.mean[99]

    plain = after(FromTotals(thompson_pulls))
    assert after(LEARNERS["discounted_thompson"]) <= 0.5 * plain


def test_delayed_rewards_cost_no_more_than_the_rounds_they_are_late():
    """Delay 200: regret grows by at most 200 rounds of the even split's, and a longer delay costs more."""
    environment, policy = Stationary((0.3, 0.6)), FromTotals(thompson_pulls)
    prompt, late, later = (run(environment, policy, delay=delay).mean[-1] for delay in (0, 200, 1_000))
    assert prompt < late < later
    assert late - prompt < 200 * 0.15 * 1.1


def lost(pulls, *, arms, seed, runs=400, rounds=2_000):
    """Mean final regret and its 95th percentile, where `arms` make rewards of a generator."""
    rng = np.random.default_rng(seed)
    log = logged(*(np.round(make(rng), 2) for make in arms))
    final = simulate(
        log, FromTotals(pulls), rounds=rounds, batch=20, runs=runs, rng=np.random.default_rng(seed + 1)
    ).final
    return final.mean(), np.quantile(final, 0.95)


def beta(concentration, mean):
    return lambda rng: rng.beta(concentration * mean, concentration * (1 - mean), 2_000)


def coins_pulls(totals, size, rng):
    """Thompson sampling that takes every reward for one answer of yes or no."""
    return thompson_pulls(replace(totals, sum_squares=totals.sum), size, rng)


def certain_pulls(totals, size, rng):
    """A planted bug: means are as certain as after a hundred times the rewards."""
    return thompson_pulls(totals.weighted(100.0), size, rng)


FAR = [beta(2, 0.6), beta(2, 0.55), beta(2, 0.5)]


@pytest.mark.parametrize(
    ("arms", "most"),
    [
        pytest.param([beta(10, 0.6), beta(10, 0.55), beta(10, 0.5)], 0.5, id="close to their means"),
        pytest.param(FAR, 0.75, id="far from them"),
        pytest.param([beta(1, 0.55), beta(10, 0.53), beta(100, 0.5)], 0.75, id="the best farthest"),
        pytest.param([beta(100, 0.55), beta(10, 0.53), beta(1, 0.5)], 0.75, id="the best closest"),
    ],
)
def test_on_fractional_rewards_less_is_lost_than_by_taking_them_for_answers(arms, most):
    """And in the worst 1 run of 20 no more."""
    mean, worst = lost(thompson_pulls, arms=arms, seed=20260144)
    coins_mean, coins_worst = lost(coins_pulls, arms=arms, seed=20260144)
    assert mean < most * coins_mean
    assert worst < 1.05 * coins_worst


def test_the_gate_for_fractional_rewards_sees_means_that_are_certain_too_soon():
    _, worst = lost(certain_pulls, arms=FAR, seed=20260144)
    _, coins_worst = lost(coins_pulls, arms=FAR, seed=20260144)
    assert worst > 1.05 * coins_worst


def test_on_fractional_rewards_beta_arms_lose_about_as_little_as_normal_arms():
    """Rewards 0.5 +- 0.05 and 0.52 +- 0.05."""
    rng = np.random.default_rng(20260144)
    log = logged(*(np.round(np.clip(rng.normal(mean, 0.05, 2_000), 0, 1), 2) for mean in (0.50, 0.52)))
    normal, beta_arms, coins = (
        run(log, FromTotals(pulls), rounds=4_000).mean[-1]
        for pulls in (normal_pulls, thompson_pulls, coins_pulls)
    )
    assert beta_arms < 1.5 * normal
    assert coins > 2 * normal


def test_means_change_and_swing_as_declared():
    changing = Changing((0.1, 0.2), (Change(10, (0.3, 0.1)),))
    assert changing.mean_rewards(np.array([9.0, 10.0])).tolist() == [[0.1, 0.2], [0.3, 0.1]]
    seasonal = Seasonal((0.5, 0.5), amplitude=0.1, period=100, phases=(0.0, 0.5))
    assert seasonal.mean_rewards(np.array([25.0]))[0] == pytest.approx([0.6, 0.4])
    # Half a period each is best: regret counts against the best arm of each round.
    found = run(seasonal, FromTotals(even_pulls), rounds=1_000, batch=1, runs=20)
    assert found.mean[-1] == pytest.approx(1_000 * 0.1 * 2 / np.pi, rel=0.05)


def test_equal_seeds_give_equal_runs():
    first, second = (run(Stationary((0.3, 0.6)), FromTotals(thompson_pulls)) for _ in range(2))
    assert (first.final == second.final).all()


@pytest.mark.parametrize(
    "refused",
    [
        lambda: Stationary((0.5,)),
        lambda: Stationary((0.5, 1.2)),
        lambda: Changing((0.1, 0.2), (Change(2, (0.1, 0.2)), Change(1, (0.1, 0.2)))),
        lambda: Changing((0.1, 0.2), (Change(2, (0.1,)),)),
        lambda: Seasonal((0.5, 0.5), 0.1, 0, (0, 0)),
        lambda: logged([], [1.0]),
        lambda: logged([1.5], [1.0]),
        lambda: run(Stationary((0.3, 0.6)), FromTotals(even_pulls), batch=0),
    ],
)
def test_what_cannot_be_simulated_is_refused(refused):
    with pytest.raises(InvalidInput):
        refused()


def test_reports_progress_by_batch_and_loses_nothing_if_nothing_is_earned():
    done = []
    rng = np.random.default_rng(1)
    found = simulate(
        Stationary((0.0, 0.0)),
        FromTotals(even_pulls),
        rounds=25,
        batch=10,
        runs=2,
        rng=rng,
        progress=done.append,
    )
    assert done == [10, 10, 5]
    assert found.lost == 0
