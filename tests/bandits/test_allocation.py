"""Policies: shares in, nothing hidden."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.allocation import Allocation, compare, fixed, limited
from bandits.arms import BetaArms
from bandits.thompson import thompson
from stats.totals import RewardTotals


def flat_arms(n_arms):
    return BetaArms(np.ones(n_arms), np.ones(n_arms))


def test_the_floor_is_shared_and_the_rest_matches_the_probability_of_being_best():
    arms = BetaArms(np.array([900.0, 100.0]), np.array([100.0, 900.0]))
    assert thompson(arms, exploration_floor=0.05).shares == pytest.approx([0.975, 0.025], abs=1e-9)
    assert thompson(arms, exploration_floor=1.0).shares == pytest.approx([0.5, 0.5])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1)), min_size=1, max_size=8),
    st.floats(0, 1),
)
def test_every_share_keeps_the_floor_and_all_sum_to_one(observed, floor):
    totals = [RewardTotals(n, n * rate, n * rate**2) for n, rate in observed]
    shares = thompson(BetaArms.from_totals(totals), exploration_floor=floor).shares
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    assert (shares >= floor / len(observed)).all()


def test_fixed_weights_are_kept():
    assert fixed([0.2, 0.8]).shares.tolist() == [0.2, 0.8]


@pytest.mark.parametrize("shares", [[0.5, 0.6], [-0.1, 1.1], [], [float("nan"), 1.0], [[0.5, 0.5]]])
def test_what_is_no_allocation_is_refused(shares):
    with pytest.raises(ValueError, match="shares must"):
        Allocation(np.array(shares, dtype=np.float64))


@pytest.mark.parametrize("floor", [-0.01, 1.01, float("nan")])
def test_a_floor_outside_the_unit_interval_is_refused(floor):
    with pytest.raises(ValueError, match="exploration_floor"):
        thompson(flat_arms(2), exploration_floor=floor)


RATES, ROUNDS, BATCH = np.array([0.10, 0.14]), 8_000, 200


def regret(draw, seed):
    """Expected rewards forgone when arms are drawn for batches, and rewards are seen after each."""
    rng = np.random.default_rng(seed)
    pulls, wins = np.zeros(2), np.zeros(2)
    for _ in range(ROUNDS // BATCH):
        drawn = draw(BetaArms(1 + wins, 1 + pulls - wins), rng)
        pulls += drawn
        wins += rng.binomial(drawn, RATES)
    return pulls @ (RATES.max() - RATES)


def matching(arms, rng):
    return rng.multinomial(BATCH, thompson(arms, exploration_floor=0).shares)


def textbook(arms, rng):
    """Thompson sampling as it is usually written: sample every posterior, take the greatest."""
    best = rng.beta(arms.alpha, arms.beta, size=(BATCH, 2)).argmax(axis=1)
    return np.bincount(best, minlength=2)


def blind(arms, rng):
    """A planted bug: every arm is as likely to be best as any other."""
    return rng.multinomial(BATCH, [0.5, 0.5])


def test_probability_matching_earns_what_sampling_does():
    """Over 40 runs the mean regret is the textbook sampler's, within 4 standard errors of the difference.

    A correct implementation fails with probability below 1e-4, and the seeds are fixed. The planted bug
    learns nothing, and must fail.
    """
    seeds = range(20260101, 20260141)
    expected = np.array([regret(textbook, seed) for seed in seeds])

    def surplus(policy):
        got = np.array([regret(policy, seed + 1_000) for seed in seeds])
        return (got.mean() - expected.mean()) / np.sqrt((got.var() + expected.var()) / len(seeds))

    assert abs(surplus(matching)) < 4
    assert surplus(blind) > 4


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
