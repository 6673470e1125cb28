"""From totals to posteriors."""

import numpy as np
import pytest

from bandits.arms import BetaArms
from stats.totals import RewardTotals


def test_a_fractional_reward_counts_as_that_part_of_a_success():
    arms = BetaArms.from_totals([RewardTotals(3, 1.5, 1.25), RewardTotals()])
    assert arms.alpha.tolist() == [2.5, 1.0]
    assert arms.beta.tolist() == [2.5, 1.0]
    assert arms.mean.tolist() == [0.5, 0.5]


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
