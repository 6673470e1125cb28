"""What every policy keeps, whatever it believes: the order of arms, units, frequencies, and its regret."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bandits.allocation import Allocation, compare, fixed, greatest, limited
from bandits.arms import BetaArms, GammaArms, NormalArms
from bandits.contextual import thompson as linear_thompson
from bandits.contextual import ucb as lin_ucb
from bandits.environments import Stationary
from bandits.exp3 import LossTotals, exp3_ix
from bandits.features import UNIT
from bandits.forgetting import discounted, warm_start, windowed
from bandits.greedy import decreasing_epsilon, epsilon_greedy
from bandits.identification import track_and_stop
from bandits.linear import LinearTotals, disjoint, hybrid
from bandits.logistic import LogisticTotals, logistic
from bandits.objective import Constraint, constrained_thompson
from bandits.pulls import FromTotals, thompson_pulls
from bandits.simulation import simulate
from bandits.thompson import optimistic_thompson, thompson, top_two
from bandits.totals import ArmTotals
from bandits.ucb import ucb1_tuned_index, upper_bound
from stats.errors import InvalidInput

FAMILIES = {
    "beta": (BetaArms, [[3.0, 40, 5], [4.0, 50, 3]]),
    "normal": (NormalArms, [[0.1, 0.3, 0.2], [0.5, 0.1, 0.3], [3.0, 8, 100]]),
    "gamma": (GammaArms, [[1.0, 30, 4], [1.0, 25, 5]]),
}
OF_POSTERIORS = {"thompson": thompson, "optimistic": optimistic_thompson, "top_two": top_two}


def as_often(counts, shares):
    n = counts.sum()
    return ((counts >= stats.binom.ppf(1e-8, n, shares)) & (counts <= stats.binom.isf(1e-8, n, shares))).all()


@pytest.mark.parametrize("policy", OF_POSTERIORS.values(), ids=OF_POSTERIORS)
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_shares_follow_the_arms_sum_to_one_and_are_drawn_as_often_as_they_say(policy, family):
    make, parameters = family
    shares, order = policy(make(*np.array(parameters)), exploration_floor=0.1).shares, [2, 0, 1]
    turned = policy(make(*np.array(parameters)[:, order]), exploration_floor=0.1).shares
    assert turned == pytest.approx(shares[order], abs=1e-9)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    counts = np.random.default_rng(20260170).multinomial(100_000, shares)
    assert as_often(counts, shares)
    assert not as_often(counts, shares[order])  # planted: the vector of other arms


@pytest.mark.parametrize("policy", OF_POSTERIORS.values(), ids=OF_POSTERIORS)
def test_shares_do_not_depend_on_the_unit_of_rewards(policy):
    location, scale, degrees = np.array(FAMILIES["normal"][1])
    shape, rate = np.array(FAMILIES["gamma"][1])
    for one, other in (
        (NormalArms(location, scale, degrees), NormalArms(60 * location - 7, 60 * scale, degrees)),
        (GammaArms(shape, rate), GammaArms(shape, rate / 60)),
    ):
        expected = policy(one, exploration_floor=0).shares
        assert policy(other, exploration_floor=0).shares == pytest.approx(expected, abs=1e-6)


def test_shares_under_a_constraint_follow_the_arms():
    reward, seconds = np.array([[30.0, 40, 50], [70, 60, 50]]), np.array([1.0, 1.1, 1.2])

    def shares(order):
        slow = Constraint(NormalArms(seconds[order], np.full(3, 0.1), np.full(3, 50.0)), at_most=1.1)
        spare = Allocation(np.array([1.0, 0, 0])[order])
        served = constrained_thompson(
            BetaArms(*reward[:, order]), [slow], when_none=spare, exploration_floor=0.05
        )
        return served.shares

    assert shares([2, 0, 1]) == pytest.approx(shares([0, 1, 2])[[2, 0, 1]], abs=1e-9)


MODELS = {
    "disjoint": (disjoint, LinearTotals),
    "hybrid": (hybrid, LinearTotals),
    "logistic": (logistic, LogisticTotals),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_decisions_in_context_follow_the_arms_and_not_the_unit_of_features(model):
    """Features halved, exactly in fixed point, and the context that is asked about with them."""
    fit, kind = model
    rng = np.random.default_rng(20260171)
    contexts = np.concatenate([np.full((90, 1), UNIT), 2 * UNIT * rng.integers(-1, 2, (90, 2))], axis=1)
    rewards, half = (rng.random(90) < 0.4).astype(float), np.array([1.0, 0.5, 0.5])

    def decided(order, scale):
        rows = (contexts * scale).astype(np.int64)
        totals = [kind.of_rows(rows[arm::3], rewards[arm::3]) for arm in order]
        arms, x = fit(totals).arms(), np.array([1.0, 2, -2]) * scale
        return [decide(arms, x, exploration_floor=0.1) for decide in (linear_thompson, lin_ucb)]

    whole = decided([0, 1, 2], 1)
    for found, expected in zip(decided([2, 0, 1], 1), whole, strict=True):
        assert found == pytest.approx(expected[[2, 0, 1]], abs=1e-3)
    for found, expected in zip(decided([0, 1, 2], half), whole, strict=True):
        assert found == pytest.approx(expected, abs=1e-3)


def totals(n, total):
    n, total = np.array(n, dtype=float), np.array(total, dtype=float)
    return ArmTotals(n, total, total, np.zeros_like(n))


def test_epsilon_greedy_gives_the_shares_that_mabwiser_draws():
    """MABWiser 2.7.4, EpsilonGreedy(epsilon=0.2), seed 1, after 12 of 40, 10 of 25 and 7 of 35: 20,000 calls
    of predict()."""
    shares = epsilon_greedy(totals([40, 25, 35], [12, 10, 7]), epsilon=0.2).shares
    assert stats.chisquare([1_309, 17_402, 1_289], 20_000 * shares).pvalue > 1e-4


def test_the_tuned_index_is_that_of_the_rewards_one_by_one():
    """Figure and section 4 of Auer et al. (2002) over lists of rewards, with the variance of `statistics`."""
    rewards = [[0.2, 0.9, 0.4, 0.4], [1.0, 0.0] * 8, [0.5] * 60]
    t = sum(map(len, rewards))
    expected = [
        statistics.fmean(one)
        + math.sqrt(
            math.log(t)
            / len(one)
            * min(0.25, statistics.pvariance(one) + math.sqrt(2 * math.log(t) / len(one)))
        )
        for one in rewards
    ]
    n, total, squares = ([f(one) for one in rewards] for f in (len, sum, lambda one: sum(r * r for r in one)))
    n, total, squares = (np.array(field, dtype=float) for field in (n, total, squares))
    seen = ArmTotals(n, total, squares, np.zeros(3))
    assert ucb1_tuned_index(seen) == pytest.approx(expected, abs=1e-9)


GATES = {
    "normal": (
        lambda rng, n, mean: rng.normal(mean, 0.3, n),
        lambda n, total, squares: NormalArms.from_moments(n, total / n, squares - total**2 / n),
    ),
    "gamma": (
        lambda rng, n, mean: rng.poisson(mean, n).astype(float),
        lambda n, total, squares: GammaArms(0.5 + total, 0.5 + n),
    ),
}


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
def test_thompson_for_other_rewards_loses_little_and_the_gate_sees_a_planted_bug(gate):
    """Means 1.0 and 1.4, 40 batches of 25, 5 runs: 0.4 of an even split's regret. Planted: arms mixed up."""
    draw, posterior = gate
    means = np.array([1.0, 1.4])

    def regret(seed, turn):
        rng, pulls = np.random.default_rng(seed), np.zeros(2)
        sums = np.array([[3.0, 3], [3, 3], [4, 4]])  # n, sum, sum of squares of three rewards each
        for _ in range(40):
            new = rng.multinomial(25, thompson(posterior(*sums), exploration_floor=0).shares)
            rewards = [draw(rng, n, mean) for n, mean in zip(new, means, strict=True)]
            seen = np.array([[len(one), one.sum(), (one**2).sum()] for one in rewards]).T
            sums, pulls = sums + seen[:, ::turn], pulls + new
        return pulls @ (means.max() - means)

    even = 1_000 * 0.2
    assert np.mean([regret(20260172 + run, 1) for run in range(5)]) < 0.4 * even
    assert np.mean([regret(20260172 + run, -1) for run in range(5)]) > 0.4 * even


def change_regret(forget, *, seed):
    """After (0.7, 0.3) turned round, 30 of 60 batches of 25."""
    rng, buckets, lost = np.random.default_rng(seed), [totals([0, 0], [0, 0])], 0.0
    for batch in range(60):
        means = np.array([0.7, 0.3]) if batch < 30 else np.array([0.3, 0.7])
        arms = BetaArms.from_totals(forget(buckets))
        pulls = rng.multinomial(25, thompson(arms, exploration_floor=0.02).shares)
        buckets.append(totals(pulls, rng.binomial(pulls, means)))
        lost += (batch >= 30) * (pulls @ (0.7 - means))
    return lost


@pytest.mark.parametrize(
    ("forget", "parameter", "planted"),
    [(windowed, {"last": 8}, {"last": 61}), (discounted, {"factor": 0.8}, {"factor": 1.0})],
)
def test_forgetting_earns_after_a_change_and_the_gate_sees_what_never_forgets(forget, parameter, planted):
    """Half of the regret of an even split after the change."""

    def mean(given):
        seeds = range(20260173, 20260175)
        return np.mean([change_regret(lambda seen: forget(seen, **given), seed=seed) for seed in seeds])

    even = 30 * 25 * 0.2
    assert mean(parameter) < 0.5 * even
    assert mean(planted) > 0.5 * even


def started_from(start):
    """Thompson sampling that begins with `start` in every one of many runs."""

    def pulls(seen, size, rng):
        fields = ("n", "sum", "sum_squares")
        known = {field: getattr(seen, field) + getattr(start, field) for field in fields}
        return thompson_pulls(replace(seen, **known), size, rng)

    return FromTotals(pulls)


def test_a_warm_start_saves_regret_a_wrong_one_is_outvoted_and_the_gate_sees_planted_bugs():
    """(0.3, 0.4), 2,000 rounds, 100 runs, n_max = 200: 0.6 of a cold start's regret where the log is right.

    A log that is turned round costs less than half of an even split's with n_max = 20. Planted bugs: the log
    of the wrong arms, and an n_max that is not kept.
    """
    right, wrong = totals([5_000, 5_000], [1_500, 2_000]), totals([5_000, 5_000], [2_000, 1_500])

    def lost(start):
        found = simulate(
            Stationary((0.3, 0.4)),
            started_from(start),
            rounds=2_000,
            batch=50,
            runs=100,
            rng=np.random.default_rng(20260176),
        )
        return found.mean[-1]

    cold, even = lost(totals([0, 0], [0, 0])), 2_000 * 0.05
    assert lost(warm_start(right, discount=1.0, n_max=200)) < 0.6 * cold
    assert lost(warm_start(wrong, discount=1.0, n_max=200)) > 0.6 * cold
    assert lost(warm_start(wrong, discount=1.0, n_max=20)) < 0.5 * even
    assert lost(warm_start(wrong, discount=1.0, n_max=5_000)) > 0.5 * even


def test_a_shadow_policy_gains_what_the_comparison_says_and_the_gate_sees_planted_bugs():
    """An even split over (0.3, 0.5, 0.6) has seen 3,000 rewards, in 40 runs; the shadow policy is Thompson's.

    Mean of what `compare` says less what its shares really earn more: at most 0.01 a pull. Planted bugs: it
    is compared with itself, and shares of other arms.
    """
    means, even, rng = np.array([0.3, 0.5, 0.6]), fixed([1 / 3] * 3), np.random.default_rng(20260177)

    def error(current, order):
        errors = []
        for _ in range(40):
            seen = totals([1_000] * 3, rng.binomial(1_000, means))
            shares = thompson(BetaArms.from_totals(seen), exploration_floor=0.1)
            said = compare(current or shares, Allocation(shares.shares[order]), seen.mean).gain
            errors.append(said - (shares.shares - even.shares) @ means)
        return abs(np.mean(errors))

    assert error(even, [0, 1, 2]) < 0.01
    assert error(None, [0, 1, 2]) > 0.01
    assert error(even, [2, 0, 1]) > 0.01


def on_posterior(policy):
    return lambda seen, floor: policy(BetaArms.from_totals(seen), exploration_floor=floor)


POLICIES = {
    "thompson": on_posterior(thompson),
    "optimistic_thompson": on_posterior(optimistic_thompson),
    "top_two": on_posterior(top_two),
    "ucb1": lambda seen, floor: upper_bound("ucb1", seen, exploration_floor=floor),
    "ucb1_tuned": lambda seen, floor: upper_bound(
        "ucb1_tuned", seen, exploration_floor=floor, rounds_ahead=10
    ),
    "kl_ucb": lambda seen, floor: upper_bound("kl_ucb", seen, exploration_floor=floor),
    "kl_ucb_plus": lambda seen, floor: upper_bound(
        "kl_ucb_plus", seen, exploration_floor=floor, rounds_ahead=3
    ),
    "epsilon_greedy": lambda seen, floor: epsilon_greedy(seen, epsilon=floor),
    "track_and_stop": lambda seen, floor: track_and_stop(seen, exploration_floor=floor),
    "exp3_ix": lambda seen, floor: exp3_ix(LossTotals(seen.n - seen.sum), eta=0.01, exploration_floor=floor),
}


observed = st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 20)), min_size=2, max_size=6).map(
    lambda pairs: totals([n for n, _ in pairs], [n * twentieth / 20 for n, twentieth in pairs])
)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@settings(max_examples=25, deadline=None)
@given(seen=observed, floor=st.floats(0.01, 1), random=st.randoms(use_true_random=False))
def test_shares_sum_to_one_keep_the_floor_and_follow_the_arms(policy, seen, floor, random):
    shares = policy(seen, floor).shares
    assert shares.sum() == pytest.approx(1, abs=1e-9)
    assert (shares >= floor / len(shares) * (1 - 1e-9)).all()
    order = list(range(len(shares)))
    random.shuffle(order)
    assert policy(totals(seen.n[order], seen.sum[order]), floor).shares == pytest.approx(
        shares[order], abs=1e-6
    )


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_equal_arms_get_equal_shares(policy):
    for n, total in ((0, 0), (10, 0), (10, 10), (10**9, 3 * 10**8)):
        assert policy(totals([n] * 3, [total] * 3), 0.05).shares == pytest.approx([1 / 3] * 3, abs=1e-9)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_floor_outside_the_unit_interval_is_refused(policy):
    for floor in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"exploration_floor|epsilon"):
            policy(totals([5, 5], [1, 2]), floor)


def test_arms_are_drawn_as_often_as_their_propensities_say():
    """100,000 draws from the vector of each policy, within binomial bounds of 1e-8 each."""
    seen, n = totals([40, 25, 35], [12, 10, 7]), 100_000
    for number, policy in enumerate(POLICIES.values()):
        shares = policy(seen, 0.05).shares
        drawn = np.random.default_rng(20260110 + number).multinomial(n, shares)
        assert (drawn >= stats.binom.ppf(1e-8, n, shares)).all()
        assert (drawn <= stats.binom.isf(1e-8, n, shares)).all()


SEEN = totals([40, 25, 35], [12, 10, 7])


shares = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(
    lambda raw: Allocation(np.array(raw) / sum(raw))
)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: limited(Allocation(np.ones(1)), Allocation(np.array([0.5, 0.5])), step_max=0.1),
        lambda: limited(Allocation(np.ones(1)), Allocation(np.ones(1)), step_max=0),
        lambda: upper_bound("kl_ucb", totals([2], [3]), exploration_floor=0),
        lambda: upper_bound("ucb1", SEEN, exploration_floor=0, rounds_ahead=0),
        lambda: top_two(BetaArms.from_totals(SEEN), leader_share=1.0, exploration_floor=0),
        lambda: decreasing_epsilon(SEEN, gap=0),
        lambda: LossTotals.observed(2, 0, 0.5, propensity=0, gamma=0.1),
        lambda: greatest(np.array([np.nan, 1])),
        lambda: track_and_stop(SEEN, exploration_floor=0),
    ],
)
def test_refuses_parameters_out_of_range(refused):
    with pytest.raises(InvalidInput):
        refused()
