"""Totals as arrays, and their modifiers."""

import numpy as np
import pytest

from bandits.forgetting import discounted, warm_start, windowed
from bandits.totals import ArmTotals
from stats.errors import InvalidInput
from stats.totals import RewardTotals


def totals(n, total, pending=None):
    n, total = np.array(n, dtype=float), np.array(total, dtype=float)
    return ArmTotals(n, total, total, np.zeros_like(n) if pending is None else np.array(pending, dtype=float))


def test_totals_are_those_of_the_arms_and_merge_by_addition():
    merged = ArmTotals.of([RewardTotals(2, 1.5, 1.25), RewardTotals()], pending=[3, 4]) + totals(
        [1, 1], [0, 1]
    )
    assert merged.n.tolist() == [3, 1]
    assert merged.sum.tolist() == [1.5, 1]
    assert merged.pending.tolist() == [3, 4]
    assert merged.mean.tolist() == [0.5, 1]
    assert merged.variance == pytest.approx([1.25 / 3 - 0.25, 0])


@pytest.mark.parametrize("n", [[-1.0, 1.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_totals_that_no_rewards_can_have_are_refused(n):
    with pytest.raises(InvalidInput):
        totals(n, [0.0, 0.0])


@pytest.mark.parametrize(
    "refused",
    [
        lambda: discounted([], factor=0.5),
        lambda: discounted([totals([1], [1])], factor=0),
        lambda: windowed([totals([1], [1])], last=0),
        lambda: warm_start(totals([1], [1]), discount=1.1, n_max=1),
    ],
)
def test_refuses_parameters_out_of_range(refused):
    with pytest.raises(InvalidInput):
        refused()
