"""Tests of `bandits.environments`."""

import numpy as np
import pytest

from bandits.environments import Drifting, Logged
from stats.errors import InvalidInput


def logged(*arms):
    return Logged({str(arm): tuple(rewards) for arm, rewards in enumerate(arms)})


def test_logged_rewards_come_as_often_as_in_the_log():
    log = logged([0.0, 0.5, 1.0, 1.0], [0.2])
    assert log.mean_rewards(np.zeros(1)).tolist() == [[0.625, 0.2]]
    rewards = log.draw_rewards(
        np.random.default_rng(20260143), np.zeros(2), np.array([[40_000.0, 7.0]]), np.zeros((1, 2))
    )
    assert rewards.sum[0, 1] == pytest.approx(1.4)
    assert abs(rewards.sum[0, 0] - 25_000) < 6 * np.sqrt(40_000 * 0.172)
    assert abs(rewards.sum_squares[0, 0] - 22_500) < 6 * np.sqrt(40_000 * 0.2)


def test_drifting_means_stand_on_the_line_and_stay_at_its_end():
    environment = Drifting((0.2, 0.6), (0.4, 0.5), duration=100)
    means = environment.mean_rewards(np.array([0.0, 25.0, 100.0, 900.0]))
    assert means == pytest.approx(np.array([[0.2, 0.6], [0.25, 0.575], [0.4, 0.5], [0.4, 0.5]]))
    with pytest.raises(InvalidInput):
        Drifting((0.2, 0.6), (0.4,), duration=100)
    with pytest.raises(InvalidInput):
        Drifting((0.2, 0.6), (0.4, 0.5), duration=0)
