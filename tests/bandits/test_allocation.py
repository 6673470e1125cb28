"""Policies: shares in, nothing hidden."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from bandits.allocation import Allocation, fixed, thompson
from bandits.arms import BetaArms
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


def serve(policy, *, rates, rounds, batch, seed):
    """The share of the last half of the rounds that went to each arm, rewards seen after every batch."""
    rng = np.random.default_rng(seed)
    totals = [RewardTotals() for _ in rates]
    late = np.zeros(len(rates), dtype=int)
    for start in range(0, rounds, batch):
        pulls = rng.multinomial(batch, policy(totals).shares)
        wins = rng.binomial(pulls, rates)
        totals = [
            total + RewardTotals(int(n), float(k), float(k))
            for total, n, k in zip(totals, pulls, wins, strict=True)
        ]
        late += pulls * (start >= rounds // 2)
    return late / late.sum()


def matching(totals):
    return thompson(BetaArms.from_totals(totals), exploration_floor=0.05)


def forgetting_who_is_who(totals):
    """A planted bug: the posteriors of the arms are exchanged."""
    return thompson(BetaArms.from_totals(totals[::-1]), exploration_floor=0.05)


def test_traffic_moves_to_the_better_arm():
    """0.6 against 0.5 over 4,000 rounds in batches of 100: the better arm gets 90 % of the second half.

    At 2,000 rewards an even split already separates the arms by 4.5 standard errors, so a run fails with
    probability below 0.05; that 6 or more of 40 do then has a probability below 0.02. The seeds are fixed,
    and the planted bug, which favours the worse arm, must fail.
    """
    seeds = range(20260101, 20260141)
    simulate = partial(serve, rates=[0.5, 0.6], rounds=4_000, batch=100)
    allowed = binom.ppf(1 - 1e-3, n=len(seeds), p=0.05)
    assert sum(simulate(matching, seed=seed)[1] < 0.9 for seed in seeds) <= allowed
    assert sum(simulate(forgetting_who_is_who, seed=seed)[1] < 0.9 for seed in seeds) > allowed
