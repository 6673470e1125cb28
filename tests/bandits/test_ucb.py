"""Tests of `bandits.ucb`."""

import numpy as np
import pytest
from hypothesis import strategies as st

from bandits.allocation import Allocation
from bandits.totals import ArmTotals
from bandits.ucb import INDEXES, kl_ucb_index, kl_ucb_plus_index, ucb1_index, ucb1_tuned_index, upper_bound


def totals(n, total, pending=None):
    n, total = np.array(n, dtype=float), np.array(total, dtype=float)
    return ArmTotals(n, total, total, np.zeros_like(n) if pending is None else np.array(pending, dtype=float))


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


shares = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(
    lambda raw: Allocation(np.array(raw) / sum(raw))
)
