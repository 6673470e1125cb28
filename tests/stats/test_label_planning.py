"""The label planner: what it promises is what more labels or judge calls do."""

import math

import numpy as np
import pytest

from stats.errors import InsufficientData, InvalidInput
from stats.label_planning import plan_labels
from stats.prediction_powered import JudgedTotals, prediction_powered_mean, quality_sequence

NAN = math.nan


def stratum(seed: int, judged: int, labelled: int, noise: float) -> JudgedTotals:
    """Responses whose first ones are labelled; `noise` is the judge's error."""
    rng = np.random.default_rng(20260101 + seed)
    y = rng.random(judged)
    judge = np.clip(y + noise * rng.normal(size=judged), 0, 1)
    human = np.where(np.arange(judged) < labelled, y, NAN)
    return JudgedTotals.from_observations(judge, human, np.full(judged, labelled / judged))


def half_width(total: JudgedTotals) -> float:
    interval = quality_sequence(prediction_powered_mean(total), alpha=0.05)
    return (interval.upper - interval.lower) / 2


def test_the_plan_begins_at_the_interval_of_today():
    total = stratum(81, 2_000, 60, 0.2)
    plan = plan_labels({"all": total}, alpha=0.05)
    assert plan.half_width == pytest.approx(half_width(total), rel=1e-9)


def test_more_labels_shrink_the_interval_as_promised():
    option = plan_labels({"all": stratum(82, 20_000, 400, 0.3)}, alpha=0.05, labels=1_200).options[0]
    assert option.half_width == pytest.approx(half_width(stratum(83, 20_000, 1_600, 0.3)), rel=0.1)


def test_judge_calls_that_do_as_much_do_as_much():
    """A good judge on few responses: most of the error is that of the judged sample."""
    now = stratum(84, 400, 200, 0.02)
    option = plan_labels({"all": now}, alpha=0.05, labels=2).options[0]
    assert option.judge_calls is not None
    later = stratum(85, 400 + option.judge_calls, 200, 0.02)
    assert option.half_width <= half_width(now)
    assert half_width(later) == pytest.approx(option.half_width, rel=0.1)


def test_where_the_judge_is_poor_no_number_of_calls_helps():
    plan = plan_labels({"all": stratum(86, 5_000, 50, 2.0)}, alpha=0.05, labels=200, judgement_cost=0.01)
    assert (plan.options[0].judge_calls, plan.options[0].judge_cost) == (None, None)


def test_labels_go_first_where_the_judge_is_wrong_most():
    strata = {"easy": stratum(87, 5_000, 60, 0.01), "hard": stratum(88, 5_000, 60, 0.5)}
    plan = plan_labels(strata, alpha=0.05, labels=40, label_cost=0.5)
    assert [option.stratum for option in plan.options] == ["hard", "easy"]
    assert plan.options[0].cost == 20.0


def test_a_target_is_reached_with_the_fewest_labels():
    total = stratum(89, 50_000, 60, 0.3)
    target = half_width(total) / 2
    option = plan_labels({"all": total}, alpha=0.05, target=target).options[0]
    assert option.half_width <= target
    fewer = plan_labels({"all": total}, alpha=0.05, labels=option.labels - 1).options[0]
    assert fewer.half_width > target
    assert plan_labels({"all": total}, alpha=0.05, target=1e-9).options == ()


def test_a_stratum_without_labels_is_silent_and_too_few_labels_are_refused():
    strata = {"labelled": stratum(90, 1_000, 60, 0.2), "new": stratum(91, 1_000, 1, 0.2)}
    strata["new"] = JudgedTotals.from_observations(np.full(9, 0.5), np.full(9, NAN), np.ones(9))
    plan = plan_labels(strata, alpha=0.05)
    assert plan.silent == ("new",)
    assert [option.stratum for option in plan.options] == ["labelled"]
    with pytest.raises(InsufficientData):
        plan_labels({"new": strata["new"]}, alpha=0.05)
    with pytest.raises(InvalidInput, match="labels must be at least 1"):
        plan_labels(strata, alpha=0.05, labels=0)
