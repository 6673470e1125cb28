"""Thompson variants, upper bounds, greedy ones, EXP3-IX: worked, referenced, permuted, floored."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bandits.allocation import Allocation, compare, greedy, limited
from bandits.arms import BetaArms
from bandits.best import probability_best
from bandits.exp3 import LossTotals, exp3_ix, learning_rate
from bandits.greedy import decreasing_epsilon, epsilon_greedy
from bandits.identification import track_and_stop
from bandits.thompson import optimistic_thompson, thompson, top_two
from bandits.totals import ArmTotals
from bandits.ucb import (
    INDEXES,
    kl_ucb_index,
    kl_ucb_plus_index,
    ucb1_index,
    ucb1_tuned_index,
    upper_bound,
)
from stats.errors import InvalidInput


def totals(n, total, pending=None):
    n, total = np.array(n, dtype=float), np.array(total, dtype=float)
    return ArmTotals(n, total, total, np.zeros_like(n) if pending is None else np.array(pending, dtype=float))


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


@settings(max_examples=25, deadline=None)
@given(seen=observed, random=st.randoms(use_true_random=False))
def test_decreasing_epsilon_gives_a_distribution_that_follows_the_arms(seen, random):
    shares = decreasing_epsilon(seen, gap=0.3).shares
    epsilon = min(1, 5 * len(shares) / (0.09 * max(seen.n.sum(), 1)))
    assert shares.sum() == pytest.approx(1, abs=1e-9)
    assert shares.min() >= epsilon / len(shares) * (1 - 1e-9)
    order = list(range(len(shares)))
    random.shuffle(order)
    moved = decreasing_epsilon(totals(seen.n[order], seen.sum[order]), gap=0.3).shares
    assert moved == pytest.approx(shares[order], abs=1e-9)


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


def test_thompson_gives_the_shares_that_mabwiser_draws():
    """MABWiser 2.7.4, LearningPolicy.ThompsonSampling(), seed 1, after 12 of 40 and 10 of 25: 40,000 calls of
    predict() chose the first arm 7,895 times."""
    shares = thompson(BetaArms.from_totals(totals([40, 25], [12, 10])), exploration_floor=0).shares
    assert stats.binomtest(7_895, 40_000, shares[0]).pvalue > 1e-4


def test_top_two_gives_the_worked_shares():
    """Beta(2, 1) is the best of itself and two uniform ones with 1/2: the integral of 2 x^3."""
    arms = BetaArms(np.array([2.0, 1, 1]), np.ones(3))
    assert top_two(arms, exploration_floor=0).shares == pytest.approx([5 / 12, 7 / 24, 7 / 24], abs=1e-9)


def test_top_two_gives_the_shares_of_its_definition():
    """Leader and runner-up drawn literally, 100,000 times."""
    arms = BetaArms(np.array([3.0, 40, 5]), np.array([4.0, 50, 3]))
    rng, n = np.random.default_rng(20260108), 100_000
    leader, pulled = arms.draw(rng, n).argmax(axis=1), arms.draw(rng, n).argmax(axis=1)
    while (same := pulled == leader).any():
        pulled[same] = arms.draw(rng, int(same.sum())).argmax(axis=1)
    pulled = np.where(rng.random(n) < 0.5, leader, pulled)
    counts, shares = np.bincount(pulled, minlength=3), top_two(arms, exploration_floor=0).shares
    assert (np.abs(counts - n * shares) < 6 * np.sqrt(n * shares * (1 - shares))).all()
    # Planted bug: the runner-up drawn without excluding the leader is Thompson sampling.
    plain = probability_best(arms)
    assert not (np.abs(counts - n * plain) < 6 * np.sqrt(n * plain * (1 - plain))).all()


def test_top_two_never_starves_the_runner_up_however_sure_the_leader():
    shares = top_two(
        BetaArms.from_totals(totals([1e9, 1e9, 1e9], [9e8, 1e8, 1e8])), exploration_floor=0
    ).shares
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=1e-6)


SEEN = totals([40, 25, 35], [12, 10, 7])


@pytest.mark.parametrize(
    ("index", "expected", "tolerance"),
    [
        # MABWiser 2.7.4 UCB1(alpha=1).predict_expectations(), and SMPyBandits 0.9.7 UCB.computeIndex.
        (ucb1_index, [0.7798525912188081, 1.0069708517540585, 0.7129839978561343], 1e-12),
        # SMPyBandits 0.9.7 klUCB and klUCBPlus, whose search stops at a tolerance of 1e-4.
        (kl_ucb_index, [0.5374954017451974, 0.6944090184869083, 0.4439992856013706], 1e-4),
        (kl_ucb_plus_index, [0.40307627439805793, 0.5659824451834414, 0.30868092040800116], 1e-4),
    ],
)
def test_indices_are_those_of_other_libraries(index, expected, tolerance):
    assert index(SEEN) == pytest.approx(expected, abs=tolerance)


def test_indices_are_the_worked_ones():
    half = totals([20, 80], [10, 0])
    assert ucb1_index(half)[0] == pytest.approx(0.5 + np.sqrt(np.log(100) / 10))
    tenth = totals([20, 80], [2, 0])
    assert ucb1_tuned_index(tenth)[0] == pytest.approx(0.1 + np.sqrt(np.log(100) / 80))
    none = totals([20, 80], [0, 0])
    assert kl_ucb_index(none)[0] == pytest.approx(1 - 100 ** (-1 / 20), abs=2e-9)
    assert kl_ucb_plus_index(none)[0] == pytest.approx(1 - 5 ** (-1 / 20), abs=2e-9)


def test_arms_never_pulled_come_first_in_even_parts():
    for index in INDEXES:
        shares = upper_bound(index, totals([5, 0, 0], [5, 0, 0]), exploration_floor=0).shares
        assert shares.tolist() == [0, 0.5, 0.5]


def test_pending_pulls_narrow_a_bound_and_leave_the_mean():
    without, waiting = totals([20, 20], [10, 9]), totals([20, 20], [10, 9], [300, 0])
    assert upper_bound("ucb1", without, exploration_floor=0).shares.tolist() == [1, 0]
    assert upper_bound("ucb1", waiting, exploration_floor=0).shares.tolist() == [0, 1]


def test_a_batch_is_spread_as_its_index_would_spread_it():
    """Two equal arms, 1,000 pulls ahead: half each, not all to the first; a far better one gets all."""
    even = upper_bound("ucb1", totals([50, 51], [20, 20]), exploration_floor=0, rounds_ahead=1_000).shares
    assert even == pytest.approx([0.5, 0.5], abs=0.1)
    assert upper_bound("kl_ucb", totals([900, 900], [800, 100]), exploration_floor=0, rounds_ahead=50).shares[
        0
    ] == pytest.approx(1)


def test_greedy_policies_give_the_worked_shares():
    seen = totals([500, 500], [100, 150])
    assert epsilon_greedy(seen, epsilon=0.1).shares == pytest.approx([0.05, 0.95])
    assert decreasing_epsilon(seen, gap=0.2).shares == pytest.approx([0.125, 0.875])
    assert greedy(np.array([1.0, 2, 2]), exploration_floor=0).shares.tolist() == [0, 0.5, 0.5]


def test_a_decreasing_epsilon_is_that_of_another_library():
    """SMPyBandits 0.9.7, EpsilonDecreasing(3, epsilon=5 * 3 / 0.3**2), its `epsilon` at the time t."""
    for t, epsilon in {100: 1.0, 400: 0.41666666666666674, 1_000: 0.16666666666666669}.items():
        seen = totals([0.5 * t, 0.3 * t, 0.2 * t], [0.1 * t, 0.2 * t, 0.1 * t])
        expected = [epsilon / 3, 1 - 2 * epsilon / 3, epsilon / 3]
        assert decreasing_epsilon(seen, gap=0.3).shares == pytest.approx(expected, abs=1e-12)


def share_of_the_worse_arm(policy, *, pulls, runs=5):
    """Mean share after so many pulls, one at a time, of (0.9, 0.3)."""
    rng, shares = np.random.default_rng(20260111), []
    for _ in range(runs):
        n, wins = np.zeros(2), np.zeros(2)
        for _ in range(pulls - 1):
            arm = int(rng.random() < policy(totals(n, wins)).shares[1])
            n[arm] += 1
            wins[arm] += rng.random() < (0.9, 0.3)[arm]
        shares.append(policy(totals(n, wins)).shares[1])
    return np.mean(shares)


def test_a_decreasing_epsilon_pulls_the_worse_arm_as_seldom_as_is_proved():
    """Auer, Cesa-Bianchi & Fischer (2002), theorem 3, for d = 0.6 and c = 6 after 500 pulls: 0.0377.

    Planted bug: epsilon decreases with the square root of time.
    """
    c, d, n = 6.0, 0.6, 500
    x = 2 * c / ((n - 1) * d**2 * np.exp(0.5))
    bound = c / (d**2 * n) + 2 * c / d**2 * np.log(1 / x) * x ** (c / (5 * d**2))
    bound += 4 * np.e / d**2 * x ** (c / 2)

    def slow(seen):
        return epsilon_greedy(seen, epsilon=min(1.0, np.sqrt(2 * c / d**2 / max(seen.n.sum(), 1))))

    assert share_of_the_worse_arm(lambda seen: decreasing_epsilon(seen, c=c, gap=d), pulls=n) <= bound
    assert share_of_the_worse_arm(slow, pulls=n) > bound


def test_exp3_ix_gives_the_worked_shares_and_its_losses_add_up():
    one = LossTotals.observed(2, 1, 0.2, propensity=0.3, gamma=0.1)
    assert (one + one).losses == pytest.approx([0, 4])
    assert learning_rate(2, 10_000) == pytest.approx(0.00832555)
    assert exp3_ix(LossTotals(np.array([0, np.log(3) / 0.1])), eta=0.1, exploration_floor=0).shares == (
        pytest.approx([0.75, 0.25])
    )
    assert exp3_ix(LossTotals(np.array([1e9, 1e9 + 1])), eta=1, exploration_floor=0).shares.sum() == 1


def test_exp3_ix_gives_the_probabilities_of_another_library():
    """SCIP 10.0.2 (SCIPbanditUpdate and SCIPgetProbabilityExp3IX of its Exp.3-IX), three arms.

    Its rate falls with time, so each of its losses counts as much as the rate of its round says.
    """
    expected = {
        1: [0.18931756626028828, 0.4053412168698559, 0.4053412168698559],
        3: [0.23181133802565215, 0.27186551724112096, 0.4963231447332269],
        5: [0.2845202263833279, 0.3336818603010031, 0.38179791331566904],
        10: [0.2886989300179269, 0.3400176727033735, 0.37128339727869974],
    }
    pulled = [0, 1, 1, 2, 0, 2, 1, 0, 1, 2]
    rewards = [0.2, 0.7, 0.4, 0.0, 1.0, 0.5, 0.9, 0.1, 0.0, 0.3]
    seen, shares = LossTotals(np.zeros(3)), np.full(3, 1 / 3)
    for t, (arm, reward) in enumerate(zip(pulled, rewards, strict=True), start=1):
        eta = learning_rate(3, 2 * t)
        loss = LossTotals.observed(3, arm, reward, propensity=shares[arm], gamma=eta / 2)
        seen += LossTotals(eta * loss.losses)
        shares = exp3_ix(seen, eta=1, exploration_floor=0).shares
        if t in expected:
            assert shares == pytest.approx(expected[t], abs=1e-12)


def test_importance_weighted_losses_are_low_by_what_gamma_takes():
    """E[loss / (p + gamma)] over draws with probability p is loss p / (p + gamma), whatever p."""
    for propensity in (0.1, 0.9):
        seen = LossTotals.observed(1, 0, 0.0, propensity=propensity, gamma=0.1).losses[0] * propensity
        assert seen == pytest.approx(propensity / (propensity + 0.1))


shares = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(
    lambda raw: Allocation(np.array(raw) / sum(raw))
)


@given(shares, shares, st.floats(0.01, 1))
def test_a_limited_step_goes_the_same_way_and_no_further(previous, new, step):
    reached = limited(previous, new, step_max=step).shares - previous.shares
    wanted = new.shares - previous.shares
    assert np.abs(reached).max() <= step + 1e-12
    assert (reached * wanted >= -1e-15).all()
    if np.abs(wanted).max() <= step:
        assert reached == pytest.approx(wanted)


def test_steps_and_comparisons_are_the_worked_ones():
    even, leaning = Allocation(np.array([0.5, 0.5])), Allocation(np.array([0.9, 0.1]))
    assert limited(even, leaning, step_max=0.1).shares == pytest.approx([0.6, 0.4])
    compared = compare(even, Allocation(np.array([0.8, 0.2])), np.array([0.3, 0.1]))
    assert (compared.moved, compared.gain) == pytest.approx((0.3, 0.06))
    assert compared.change == pytest.approx([0.3, -0.3])


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
        lambda: greedy(np.array([np.nan, 1]), exploration_floor=0),
        lambda: track_and_stop(SEEN, exploration_floor=0),
    ],
)
def test_what_means_nothing_is_refused(refused):
    with pytest.raises(InvalidInput):
        refused()
