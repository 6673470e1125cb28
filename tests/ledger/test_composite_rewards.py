"""Composite rewards against a model in plain Python, over all orders of arrival."""

from itertools import permutations

import msgspec
import numpy as np
import pytest
from hypothesis import assume, example
from hypothesis import given as examples
from hypothesis import strategies as st

from app.experiments.model import Definition
from app.experiments.reward import Reward, RewardSignal
from app.ledger.rewards.model import (
    ASSIGNMENT,
    CENSORED,
    GIVEN,
    NONE,
    PENDING,
    REWARDED,
    Given,
    Rule,
    resolve,
)
from tests.ledger.composite import composite_reward

HORIZON_US = 1_000
NAMES = ["judge_score", "stars", "thumbs_up", "thumbs_down", "latency_ms", "copied"]
SCORED = {
    "judge_score": RewardSignal(weight=2.0, range=(1.0, 3.0)),
    "stars": RewardSignal(range=(1.0, 5.0)),
    "thumbs_up": RewardSignal(value=1.0),
    "thumbs_down": RewardSignal(value=1.0, weight=-1.0),
    "latency_ms": RewardSignal(weight=0.5, reference=2_000.0),
    "copied": RewardSignal(weight=0.25, calibration=((0.0, 0.4), (1.0, 0.8))),
}
SOURCE_MATERIAL = {
    "copied": 0.8,
    "regenerated": -0.5,
    "thumbs_up": 1.0,
    "thumbs_down": -1.0,
    "abandoned": -0.3,
}


def resolved(reward, events, *, until=-np.inf, stored=None):
    """Outcome and reward of one assignment; signals are (name, source, time, value)."""
    names = list(dict.fromkeys([name for name, *_ in events])) or ["none"]
    rows = [(0, names.index(name), source, at, value) for name, source, at, value in events]
    assignments = np.zeros(1, ASSIGNMENT) if stored is None else stored
    assignments["experiment_id"], assignments["deadline_us"] = 1, HORIZON_US
    rule = {1: Rule.of(reward, by_unit=False)}
    after = resolve(assignments, Given(np.array(rows, GIVEN), names), rule, silent_until_us=until)
    return int(after["outcome"][0]), int(after["reward"][0])


values = {
    "judge_score": st.sampled_from([1.0, 2.0, 3.0]),
    "stars": st.floats(1, 5),
    "thumbs_up": st.just(1.0),
    "thumbs_down": st.just(1.0),
    "latency_ms": st.floats(0, 60_000) | st.just(1e9),
    "copied": st.floats(0, 1),
}
signal = st.sampled_from(NAMES).flatmap(
    lambda name: st.tuples(st.just(name), st.integers(0, 3), st.integers(-5, 1_003), values[name])
)
rewards = st.builds(
    lambda names, combine, required: Reward(
        signals={name: SCORED[name] for name in names},
        combine=combine,
        required=tuple(name for name in names if name in required),
    ),
    st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
    st.sampled_from(["mean", "first", "max", "last"]),
    st.sets(st.sampled_from(NAMES), max_size=2),
)


@examples(rewards, st.lists(signal, max_size=8))
@example(Reward(signals=SCORED, combine="mean"), [])
def test_equals_the_model_in_plain_python(reward, events):
    outcome, nanos = resolved(reward, events)
    model = composite_reward(reward, [(name, at, value) for name, _, at, value in events if at <= HORIZON_US])
    assert outcome == (PENDING if model is None else REWARDED)
    assert nanos == NONE if model is None else abs(nanos - model) <= 1


@examples(rewards, st.lists(signal, min_size=2, max_size=4))
def test_every_order_of_arrival_gives_the_same_bits(reward, events):
    assert len({resolved(reward, order) for order in permutations(events)}) == 1


@examples(rewards, st.lists(signal, max_size=6), st.lists(signal, max_size=6))
def test_what_else_is_in_the_batch_does_not_change_a_reward(reward, events, others):
    alone = resolved(reward, events)
    names = list(dict.fromkeys([name for name, *_ in [*others, *events]])) or ["none"]
    rows = [(1, names.index(n), *rest) for n, *rest in others] + [
        (0, names.index(n), *rest) for n, *rest in events
    ]
    assignments = np.zeros(2, ASSIGNMENT)
    assignments["experiment_id"], assignments["deadline_us"] = [1, 2], HORIZON_US
    rules = {1: Rule.of(reward, by_unit=False), 2: Rule.of(Reward(signals={"stars": 1.0}), by_unit=False)}
    after = resolve(assignments, Given(np.array(rows, GIVEN), names), rules, silent_until_us=-np.inf)
    assert (int(after["outcome"][0]), int(after["reward"][0])) == alone


def test_the_example_of_the_source_material_works_as_written():
    reward = msgspec.json.decode(msgspec.json.encode({"signals": SOURCE_MATERIAL}), type=Reward)
    assert reward.range == (-1.0, 1.0)
    nanos = {name: resolved(reward, [(name, 0, 5, value)])[1] for name, value in SOURCE_MATERIAL.items()}
    assert nanos == {
        "copied": 900_000_000,
        "regenerated": 250_000_000,
        "thumbs_up": 10**9,
        "thumbs_down": 0,
        "abandoned": 350_000_000,
    }


def test_the_source_material_can_be_averaged_over_what_is_there():
    reward = Reward(signals=SOURCE_MATERIAL, combine="mean")
    events = [("copied", 0, 5, 0.8), ("abandoned", 0, 9, -0.3)]
    assert resolved(reward, events) == (REWARDED, 625_000_000)


def test_a_thumb_that_turns_takes_back_the_other():
    reward = Reward(signals=SOURCE_MATERIAL, combine="mean")
    turned = [("thumbs_up", 1, 5, 1.0), ("thumbs_down", 1, 6, -1.0)]
    assert resolved(reward, turned) == (REWARDED, 0)
    assert resolved(reward, [*turned, ("thumbs_up", 1, 7, 1.0)]) == (REWARDED, 10**9)


def test_the_first_signal_that_is_there_decides_in_the_declared_order():
    reward = Reward(
        signals={"stars": RewardSignal(range=(1.0, 5.0)), "judge_score": RewardSignal(range=(1.0, 3.0))},
        combine="first",
        order=("judge_score", "stars"),
    )
    stars, judge = ("stars", 1, 9, 5.0), ("judge_score", 2, 3, 2.0)
    assert resolved(reward, [stars]) == (REWARDED, 10**9)
    assert resolved(reward, [stars, judge]) == (REWARDED, 500_000_000)


def test_a_missing_required_signal_is_silence_at_the_horizon_and_never_before():
    reward = Reward(signals=SCORED, combine="mean", required=("judge_score",), silence=None)
    events = [("stars", 1, 5, 5.0)]
    assert resolved(reward, events) == (PENDING, NONE)
    assert resolved(reward, events, until=HORIZON_US) == (CENSORED, NONE)
    late = [*events, ("judge_score", 2, HORIZON_US + 1, 3.0)]
    assert resolved(reward, late, until=HORIZON_US) == (CENSORED, NONE)
    assert resolved(reward, [*events, ("judge_score", 2, 7, 3.0)], until=HORIZON_US) == (REWARDED, 10**9)


@examples(st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_penalty_falls_and_is_half_at_its_reference(first, second):
    reward = Reward(signals={"latency_ms": RewardSignal(reference=2_000.0)})
    low, high = sorted([first, second])
    assume(low < high)
    better, worse = (resolved(reward, [("latency_ms", 2, 5, value)])[1] for value in (low, high))
    assert 0 <= worse <= better <= 10**9
    assert resolved(reward, [("latency_ms", 2, 5, 2_000.0)])[1] == 500_000_000


def test_64_signals_of_the_greatest_weight_do_not_overflow():
    signals = {f"s{number}": RewardSignal(weight=100.0, value=1.0, range=(0.0, 1.0)) for number in range(64)}
    events = [(name, 0, 5, 1.0) for name in signals]
    assert resolved(Reward(signals=signals, combine="mean"), events) == (REWARDED, 10**9)


@pytest.mark.parametrize("name", ["judge_score", "stars", "thumbs", "csat"])
def test_a_definition_takes_ranges_from_the_catalogue_and_keeps_them(name):
    body = {"key": "a", "variants": [], "reward": {"combine": "mean", "signals": {name: {"weight": 2}}}}
    reward = msgspec.convert(body, Definition).reward
    assert reward.signals[name].range is not None
    again = msgspec.convert(msgspec.to_builtins(msgspec.convert(body, Definition)), Definition)
    assert again.reward == reward


def test_a_definition_declares_kinds_that_the_catalogue_lacks():
    body = {
        "key": "a",
        "variants": [],
        "signals": {"tone": {"meaning": "Tone, by a judge.", "range": [0, 10], "value": None}},
        "reward": {"combine": "mean", "signals": {"tone": {}}},
    }
    reward = msgspec.convert(body, Definition).reward
    assert resolved(reward, [("tone", 2, 5, 7.0)]) == (REWARDED, 700_000_000)
