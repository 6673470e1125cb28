"""Tests of `bandits.exp3`."""

import numpy as np
import pytest
from hypothesis import strategies as st

from bandits.allocation import Allocation
from bandits.exp3 import LossTotals, exp3_ix, learning_rate


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
