import numpy as np
import pytest

from app.cli.client import Status
from app.cli.display.pictures import sparkline
from app.cli.files.logged import LoggedRewards, Task
from app.cli.traffic.replay import Draw, ReplayResult, definition_of
from app.experiments.checks import check

LOG = LoggedRewards(("a/1", "b"), (Task("t", (1.0, 4.0)), Task("u", (2.0, 5.0))), 0, 1.0, 5.0)


def result(variants: list[int]) -> ReplayResult:
    draws = tuple(Draw(variant, float(variant)) for variant in variants)
    status = Status(key="k", state="running", policy_version=1, lag_events=0, variants=())
    return ReplayResult(LOG, draws, status, ("a-1", "b"), 1.0, 0, 0)


def test_uniform_and_best_are_known_from_the_log():
    served = result([0, 1, 1, 1])
    assert served.reward == 3
    assert served.uniform == pytest.approx(4 * (0.125 + 0.875) / 2)
    assert served.best == pytest.approx(4 * 0.875)
    assert served.assigned() == (1, 3)


def test_shares_over_time_sum_to_one_in_every_window():
    served = result([0, 0, 1, 0, 1, 1, 1, 1])
    assert served.shares(4) == ((1.0, 0.5, 0.0, 0.0), (0.0, 0.5, 1.0, 1.0))
    assert np.sum(served.shares(3), axis=0) == pytest.approx([1, 1, 1])


def test_more_windows_than_draws_leave_no_empty_window():
    assert result([0, 1]).shares(32) == ((1.0, 0.0), (0.0, 1.0))


@pytest.mark.parametrize("policy", ["thompson", "fixed"])
def test_a_log_describes_a_valid_experiment(policy):
    definition = check(definition_of(LOG, "replay", policy))
    assert [variant.key for variant in definition.variants] == ["a-1", "b"]
    assert definition.variants[0].payload == {"logged_as": "a/1"}
    assert definition.reward.range == (1.0, 5.0)


def test_a_sparkline_reaches_from_empty_to_full():
    assert sparkline([0, 0.5, 1]) == "▁▅█"
