"""A canary that fails totally is rolled back first: what is undefined or slow has a test that stands in."""

import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from app.analysis.harm import means
from app.analysis.harm.question import Baseline
from app.analysis.observed import Cell
from app.experiments.metrics import Margin, Mean, Metric, Proportion, QuantileOf, Ratio
from app.rollouts.decide import decide
from app.rollouts.model import PRESETS, Guardrail, Limit, Primary, RollBack
from app.rollouts.verdicts import read
from benchmarks.rollout_extremes import (
    LOOKS,
    false_rollbacks,
    first_rollback,
    guardrail_of,
    healthy_streams,
    reading,
    totals_of,
)
from stats.totals import JointTotals, MeanTotals
from tests.rollouts.support import DAY, START, observed_of, plan_of, running


def preset(key, baseline=None, **changes):
    return Guardrail(metric=PRESETS[key], baseline=baseline, **changes)


def guardrail(measure, direction, margin, baseline=None, test="sequence"):
    """`direction` is that of the metric: which values are better."""
    return guardrail_of(measure, "lower" if direction == "higher" else "higher", margin, baseline, test)


# The cases that were held, or rolled back last


def test_judge_scores_that_fall_to_0_are_rolled_back_at_the_first_look(rng):
    scores = 0.8 + 0.1 * rng.standard_normal(4_000)
    low = 0.05 + 0.01 * rng.standard_normal(400)
    tested = preset("judge_score", Baseline(0.8, 0.1))
    assert (
        first_rollback(tested, scores, np.zeros(400), LOOKS)
        == first_rollback(tested, scores, low, LOOKS)
        == 100
    )
    result, decision = reading(tested, (scores, np.zeros(400)))
    assert result.verdict == "harm"
    assert result.effect == pytest.approx(-1, abs=1e-9)
    assert "the canary's mean of 0 has no logarithm, so the difference of means is tested" in decision.detail


def test_a_success_rate_of_half_a_per_cent_is_rolled_back_sooner_than_one_of_half(rng):
    control = (rng.random(3_500) < 0.95).astype(float)
    draws = rng.random(350)
    tested = preset("guardrail")
    total, half = (
        first_rollback(tested, control, (draws < rate).astype(float), LOOKS) for rate in (0.005, 0.5)
    )
    assert total <= 15
    assert total < half < 100


@pytest.mark.parametrize("direction", ["higher", "lower"])
def test_a_ratio_of_0_is_compared_with_a_ratio_of_a_half(rng, direction):
    tested = guardrail(Ratio("clicks", "sessions"), direction, Margin(0.05))
    sessions = rng.integers(1, 6, 4_000).astype(float)
    half = np.column_stack([rng.binomial(sessions.astype(int), 0.5), sessions])
    nothing = np.column_stack([np.zeros(400), sessions[:400]])
    result, _ = reading(tested, (half, nothing) if direction == "higher" else (nothing, half[:400]))
    assert result.verdict == "harm"
    assert result.effect == pytest.approx(-0.5 if direction == "higher" else 0.5, abs=0.05)


def test_a_tail_that_rises_from_0_to_200_is_rolled_back_by_the_difference():
    tested = preset("latency_p95")
    result, decision = reading(tested, (np.zeros(4_000), np.full(400, 200.0)))
    assert result.verdict == "harm"
    assert result.relative is False
    assert result.effect == pytest.approx(200, rel=0.02)
    assert "nothing is relative to a control of 0" in decision.detail
    assert first_rollback(tested, np.zeros(4_000), np.full(400, 200.0), LOOKS) <= 30


# Their siblings: whatever is at zero, constant or missing


BOTH_TESTS = pytest.mark.parametrize("test", ["sequence", "sprt"])


@BOTH_TESTS
@pytest.mark.parametrize("margin", [Margin(0.1, relative=True), Margin(0.05)])
def test_a_control_that_is_always_0_does_not_hide_a_canary_that_is_not(rng, margin, test):
    tested = guardrail(Mean("errors"), "lower", margin, test=test)
    assert reading(tested, (np.zeros(4_000), rng.poisson(1.0, 400).astype(float)))[0].verdict == "harm"
    same, _ = reading(tested, (np.zeros(4_000), np.zeros(400)))
    assert same.verdict == ("not_enough_data" if margin.relative else "safe")
    assert ("absolute margin" in same.reason or "allows nothing" in same.reason) == margin.relative


@BOTH_TESTS
def test_means_around_and_below_0_are_compared(rng, test):
    noise = rng.standard_normal(4_400)
    for control, direction, worse, better in (
        (-10.0, "higher", -14.0, -10.0),
        (-10.0, "lower", -6.0, -10.0),
        (1.0, "higher", -3.0, 1.0),
        (-1.0, "lower", 3.0, -1.0),
        (0.0, "lower", 3.0, -3.0),
        (0.0, "higher", -3.0, 3.0),
    ):
        tested = guardrail(Mean("score"), direction, Margin(0.2, relative=True), test=test)
        old = control + noise[:4_000] - noise[:4_000].mean()
        bad, good = worse + noise[4_000:], better + noise[4_000:] - noise[4_000:].mean()
        assert reading(tested, (old, bad))[0].verdict == "harm", (control, direction)
        assert reading(tested, (old, good))[0].verdict != "harm", (control, direction)


def test_two_per_cent_more_of_a_negative_mean_is_within_a_margin_of_ten(rng):
    tested = guardrail(Mean("score"), "higher", Margin(0.1, relative=True))
    noise = 0.5 * rng.standard_normal(22_000)
    result, _ = reading(tested, (-10.009 + noise[:20_000], -10.215 + noise[20_000:]))
    assert result.verdict == "safe"
    assert result.effect == pytest.approx(-0.0206, abs=0.005)


@BOTH_TESTS
@pytest.mark.parametrize("direction", ["higher", "lower"])
@pytest.mark.parametrize("margin", [Margin(0.1, relative=True), Margin(0.5)])
def test_values_without_any_spread_are_counted(direction, margin, test):
    tested = guardrail(Mean("size"), direction, margin, test=test)
    sign = 1 if direction == "lower" else -1
    control = np.full(4_000, 5.0)
    for shift, verdict in ((2.0, "harm"), (0.0, "safe"), (-2.0, "safe")):
        result, decision = reading(tested, (control, np.full(400, 5.0 + sign * shift)))
        assert result.verdict == verdict, shift
        if verdict == "harm":
            assert "worse values are counted" in decision.detail
    assert reading(tested, (control, np.full(99, 5.0 + 2 * sign)))[0].verdict == "not_enough_data"


def test_a_rate_that_is_perfect_for_all_is_safe():
    tested = preset("guardrail")
    assert reading(tested, (np.ones(4_000), np.ones(1_000)))[0].verdict == "safe"
    assert reading(tested, (np.ones(4_000), np.ones(50)))[0].verdict == "not_enough_data"
    assert reading(tested, (np.ones(4_000), np.zeros(20)))[0].verdict == "harm"
    assert reading(tested, (np.zeros(4_000), np.zeros(1_000)))[0].verdict == "not_enough_data"


@pytest.mark.parametrize("test", ["sequence", "sprt"])
def test_a_latency_of_0_is_not_harm_and_may_pass(rng, test):
    tested = preset("latency", Baseline(1.0, 0.5), test=test)
    latency = np.exp(0.5 * rng.standard_normal(4_000))
    assert reading(tested, (latency, np.zeros(2_000)))[0].verdict == "safe"
    tail = preset("latency_p95")
    assert reading(tail, (latency, np.zeros(2_000)))[0].verdict == "safe"
    assert reading(tail, (np.zeros(4_000), np.zeros(2_000)))[0].verdict == "safe"


@pytest.mark.parametrize("direction", ["higher", "lower"])
@pytest.mark.parametrize("margin", [Margin(0.2, relative=True), Margin(0.5)])
def test_quantiles_are_compared_with_controls_at_below_and_above_0(rng, direction, margin):
    tested = guardrail(QuantileOf("x", 0.5), direction, margin)
    sign = 1 if direction == "lower" else -1
    for control in (-20.0, 0.0, 20.0):
        for worsening, verdict in ((8.0, "harm"), (-8.0, "safe")):
            noise = 0.1 * rng.standard_normal(8_000) if control else np.zeros(8_000)
            ours = control + sign * worsening + noise[:2_000]
            assert reading(tested, (control + noise, ours))[0].verdict == verdict, (control, worsening)


def test_a_cost_per_result_without_any_result_is_harm(rng):
    """The canary's ratio is not defined: its numerators are compared instead."""
    tested = guardrail(Ratio("cost", "results"), "lower", Margin(0.1, relative=True))
    cost = rng.uniform(0.5, 1.5, 4_400)
    results = (rng.random(4_400) < 0.6).astype(float)
    control = np.column_stack([cost[:4_000], results[:4_000]])
    result, decision = reading(tested, (control, np.column_stack([cost[4_000:], np.zeros(400)])))
    assert result.verdict == "harm"
    assert "numerators" in decision.detail
    same, _ = reading(tested, (control, np.column_stack([cost[4_000:], results[4_000:]])))
    assert same.verdict != "harm"


@BOTH_TESTS
@pytest.mark.parametrize("key", PRESETS)
def test_one_unit_and_no_unit_decide_nothing(key, test):
    if test == "sprt" and isinstance(PRESETS[key].measure, QuantileOf):
        return
    tested = preset(key, test=test)
    for control, canary in ((np.ones(1), np.zeros(1)), (np.zeros(1), np.ones(1)), (np.zeros(20), np.ones(1))):
        result, decision = reading(tested, (control, canary))
        assert result.verdict == "not_enough_data"
        assert not isinstance(decision, RollBack)


@pytest.mark.parametrize("key", PRESETS)
def test_a_canary_without_known_outcomes_is_neither_safe_nor_harmed(key):
    silent = [Cell(1, "old", 5_000, {key: totals_of(PRESETS[key], np.ones(5_000))}), Cell(1, "new", 500, {})]
    plan = plan_of(preset(key))
    for at in (timedelta(hours=1), 2 * DAY):
        now = START + at
        result = read(plan, running(), observed_of(*silent), findings=(), now=now, as_of=now)
        assert result.guardrails[0].missing
        assert result.guardrails[0].verdict == "not_enough_data"
        decision = decide(plan, running(), result, now)
        assert (decision.reason, decision.alert) == ("missing_data", True)


def test_a_limit_trips_on_a_ratio_that_is_the_same_for_every_unit():
    tested = guardrail(Ratio("errors", "requests"), "lower", Margin(0.1))
    units = np.ones((500, 2))
    control = np.column_stack([np.zeros(500), np.ones(500)])
    cells = [
        Cell(1, name, 500, {"x": JointTotals.from_observations(values)})
        for name, values in (("old", control), ("new", units))
    ]
    plan = plan_of(tested, limits=(Limit("x", 0.9, 50),))
    result = read(plan, running(), observed_of(*cells), findings=(), now=START, as_of=START)
    assert result.limits[0].tripped


def test_a_primary_metric_at_0_is_answered(rng):
    metric = Metric(key="x", measure=Mean("x"), role="primary", margin=Margin(0.1, relative=True))
    plan = plan_of(preset("error_rate"), primary=Primary(metric=metric, test="superior"))
    cells = [
        Cell(1, name, len(values), {"x": MeanTotals.from_observations(values)})
        for name, values in (("old", np.zeros(4_000)), ("new", rng.poisson(1.0, 400).astype(float)))
    ]
    result = read(plan, running(), observed_of(*cells), findings=(), now=START, as_of=START)
    assert result.primary[0].shown


# More harm is never found later


MEASURES = [Mean("x"), Mean("x"), QuantileOf("x", 0.9), QuantileOf("x", 0.5)]
PARTS = st.lists(
    st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.5, 0.9, 0.99, 1.0]), min_size=2, max_size=3, unique=True
).map(sorted)
"""How bad several canaries are, of total failure: what is right on one side of it may be wrong beside it."""
FEW = (20, 60, 100, 140, 200, 300, 400)


@st.composite
def shifted(draw):
    direction = draw(st.sampled_from(["higher", "lower"]))
    relative = draw(st.booleans())
    measure = draw(st.sampled_from(MEASURES))
    location = draw(st.sampled_from([0.8, 7.0, 0.0, 1e-3, -2.0]))
    spread = draw(st.sampled_from([0.1, 0.5, 3.0, 0.0]))
    baseline = draw(st.sampled_from([None, Baseline(location, max(spread, 1e-3))]))
    test = draw(st.sampled_from(["sequence", "sprt"])) if isinstance(measure, Mean) else "sequence"
    tested = guardrail(measure, direction, Margin(0.1, relative=relative), baseline, test)
    size = draw(st.sampled_from([1.0, 1.5])) * max(abs(location), spread, 0.1)
    return tested, location, spread, [size * part for part in draw(PARTS)], draw(st.integers(0, 2**32))


@settings(max_examples=60)
@given(case=shifted(), lognormal=st.booleans())
def test_a_further_shift_in_the_harmful_direction_never_delays_the_rollback(case, lognormal):
    tested, location, spread, steps, seed = case
    rng = np.random.default_rng(seed)
    noise = rng.lognormal(size=2_400) if lognormal else rng.standard_normal(2_400)
    control, canary = location + spread * noise[:2_000], location + spread * noise[2_000:]
    sign = 1 if tested.metric.direction == "lower" else -1
    result = [first_rollback(tested, control, canary + sign * step, FEW) for step in steps]
    assert result == sorted(result, reverse=True), (steps, result)


@st.composite
def proportions(draw):
    direction = draw(st.sampled_from(["higher", "lower"]))
    rate = draw(st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.95, 1.0]))
    baseline = draw(st.sampled_from([None, Baseline(rate, max(math.sqrt(rate * (1 - rate)), 0.01))]))
    margin = Margin(draw(st.sampled_from([0.02, 0.15])), relative=draw(st.booleans()))
    tested = guardrail(
        Proportion("x"), direction, margin, baseline, draw(st.sampled_from(["sequence", "sprt"]))
    )
    preset_key = draw(st.sampled_from([None, "error_rate", "guardrail", "thumbs_down", "abandonment"]))
    return (tested if preset_key is None else preset(preset_key)), rate


@settings(max_examples=60)
@given(
    case=proportions(),
    share=st.sampled_from([0.05, 0.5, 0.9]),
    worse=PARTS,
    seed=st.integers(0, 2**32),
)
def test_turning_more_successes_into_failures_never_delays_the_rollback(case, share, worse, seed):
    tested, rate = case
    rng = np.random.default_rng(seed)
    control = (rng.random(round(400 * (1 - share) / share)) < rate).astype(float)
    canary = (rng.random(400) < rate).astype(float)
    bad = 1.0 if tested.metric.direction == "lower" else 0.0
    draws = rng.random(400)
    result = [
        first_rollback(tested, control, np.where(draws < part, bad, canary), (5, 10, 20, *FEW[1:]))
        for part in worse
    ]
    assert result == sorted(result, reverse=True), (worse, result)


@settings(max_examples=60)
@given(
    direction=st.sampled_from(["higher", "lower"]),
    margin=st.sampled_from([Margin(0.1, relative=True), Margin(0.05)]),
    rate=st.sampled_from([0.0, 0.02, 0.3, 0.9]),
    worse=PARTS,
    requests=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_failures_added_to_a_ratio_never_delay_the_rollback(direction, margin, rate, worse, requests, seed):
    """The same share of every unit's successful requests is turned into failures."""
    tested = guardrail(Ratio("events", "requests"), direction, margin)
    rng = np.random.default_rng(seed)
    sent = rng.integers(1, requests + 1, 2_400)
    events = rng.binomial(sent, rate).astype(float)
    control = np.column_stack([events[:2_000], sent[:2_000]])
    bad = sent[2_000:] if direction == "lower" else np.zeros(400)
    result = []
    for part in worse:
        ours = events[2_000:] + part * (bad - events[2_000:])
        result.append(first_rollback(tested, control, np.column_stack([ours, sent[2_000:]]), FEW))
    assert result == sorted(result, reverse=True), (worse, result)


@settings(max_examples=60)
@given(
    parts=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=3),
    rate=st.sampled_from([0.01, 0.5, 0.95]),
    direction=st.sampled_from(["higher", "lower"]),
    seed=st.integers(0, 2**32),
)
def test_more_failures_in_any_epoch_never_turn_harm_into_something_else(parts, rate, direction, seed):
    """With shares that rise from 1 % to 50 %, in proportions of every rate."""
    tested = guardrail(Proportion("x"), direction, Margin(0.02))
    rng = np.random.default_rng(seed)
    bad = 1.0 if direction == "lower" else 0.0
    epochs = {"mild": [], "bad": []}
    for (n_c, n_t), pair in zip(((9_900, 100), (1_900, 100), (300, 300)), parts, strict=True):
        control, canary = (np.array(rng.random(n) < rate, dtype=float) for n in (n_c, n_t))
        draws = rng.random(n_t)
        for name, part in (("mild", min(pair)), ("bad", max(pair))):
            epochs[name].append((control, np.where(draws < part, bad, canary)))
    if reading(tested, *epochs["mild"])[0].verdict == "harm":
        assert reading(tested, *epochs["bad"])[0].verdict == "harm"


@pytest.mark.parametrize("share", [0.01, 0.5])
@pytest.mark.parametrize("key", PRESETS)
def test_every_preset_finds_total_failure_no_later_than_half_of_it(rng, key, share):
    metric, tested = PRESETS[key], preset(key)
    n_c = round(400 * (1 - share) / share)
    if isinstance(metric.measure, Proportion):
        healthy = 0.05 if metric.direction == "lower" else 0.95
        control, draws = (rng.random(n_c) < healthy).astype(float), rng.random(400)
        half, total = (
            (draws < rate).astype(float)
            for rate in ((0.5, 1.0) if metric.direction == "lower" else (0.5, 0.0))
        )
    else:
        control = 0.8 + 0.1 * rng.standard_normal(n_c)
        values = 0.8 + 0.1 * rng.standard_normal(400)
        half, total = (
            (values / 2, 0 * values) if metric.direction == "higher" else (10 * values, 1e9 + 0 * values)
        )
    result = [first_rollback(tested, control, canary, LOOKS) for canary in (half, total)]
    assert result[1] <= result[0]
    # The control's 95th percentile has no exact upper bound before some 200 of its own units.
    assert result[1] <= (260 if key == "latency_p95" else 100)


# Stand-ins add no false rollbacks


RUNS, LEVEL = 120, 0.05
LIMIT = binom.ppf(1 - 1e-6, RUNS, LEVEL) / RUNS
STREAMS = healthy_streams()


def false_harm(name, seed=1):
    """Of canaries like their controls, at six looks."""
    rng = np.random.default_rng(20260101 + seed)
    looks = (20, 60, 100, 200, 400, 800)
    return false_rollbacks(*STREAMS[name], runs=RUNS, looks=looks, rng=rng, alpha=LEVEL)


@pytest.mark.parametrize("name", STREAMS)
def test_a_canary_like_its_control_is_rarely_rolled_back_by_any_stand_in(name):
    """A method that keeps its level fails this gate with probability below 1e-6."""
    assert false_harm(name) <= LIMIT


def test_the_gate_sees_a_stand_in_that_takes_estimates_for_proof(monkeypatch):
    """The planted bug: harm as soon as the canary has more bad outcomes than its share."""

    def eager(question, strata):
        control, canary = strata[0]
        return [means.HarmTest(0.1, 1e3 * (control.mean - canary.mean), "a point estimate")]

    monkeypatch.setattr(means, "_stand_ins", eager)
    assert false_harm("rates of a half") > LIMIT
