"""A verdict that comes: the sentence says what decides, what is missing, and until when."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.analysis.observed import Cell, Observed
from app.analysis.readout.analyze import analyze
from app.analysis.readout.conclusion import Beliefs, conclusion_of
from app.analysis.readout.forecast import Serving
from app.analysis.readout.words import and_more, duration, listed, round_count
from app.experiments.metrics import Margin, Mean, Metric
from app.experiments.plan import AnalysisPlan, FixedHorizon, GroupSequential
from stats.totals import MeanTotals, ProportionTotals
from tests.analysis.drawn import SOLVED, drawn

EVEN = {"control": (150, 0.30, 0.5), "short": (150, 0.36, 0.5)}
STARVED = [EVEN, {"control": (225, 0.30, 0.025), "short": (8_775, 0.36, 0.975)}]
FAILED = {"control": (900, 0.0, 0.5), "short": (900, 0.0, 0.5)}
WON = [EVEN, {"control": (600, 0.28, 0.1), "short": (5_400, 0.36, 0.9)}]
NOTHING = Observed(variants=("control", "short"), control="control", cells=[], adaptive=True)
NOW = Serving({"control": 0.025, "short": 0.975}, 0.05)


def read(observed, plan=None, serving=None, metrics=(SOLVED,)):
    return analyze(plan or AnalysisPlan(), list(metrics), observed, serving)


def test_a_bandit_that_has_converged_says_by_how_much_and_asks():
    shown = read(
        drawn([EVEN, {"control": (600, 0.28, 0.1), "short": (5_400, 0.36, 0.9)}], days=2.0), serving=NOW
    )
    advice = shown.recommendation
    assert (advice.action, advice.variant) == ("ship", "short")
    assert advice.sentence.startswith("The bandit has converged: short is better than control by ")
    for part in ("percentage points", "valid at every look", "Serve it?", "expected loss"):
        assert part in advice.sentence
    assert 0 <= advice.expected_loss < 1e-4
    assert advice.loss_bound == 0
    assert shown.progress.units_to_decide == shown.units


def test_a_starved_comparison_says_when_it_ends_and_what_a_floor_buys():
    """A unit adds .0244 effective units at shares of .025 and .975, and .09 at .1 and .9."""
    shown = read(drawn(STARVED, days=3.0), serving=NOW)
    progress, sentence = shown.progress, shown.recommendation.sentence
    assert shown.recommendation.action == "wait"
    assert "contains 0" in sentence
    assert "An exploration floor of 20% would need about" in sentence
    missing = {option.floor: option.units_to_decide - progress.units for option in progress.at_floors}
    now = progress.units_to_decide - progress.units
    assert missing[0.2] / now == pytest.approx(0.025 * 0.975 / (0.1 * 0.9), rel=1e-3)
    assert all(larger > smaller for larger, smaller in pairwise([now, *missing.values()]))
    assert progress.days_left == pytest.approx(now / (progress.units / 3.0), rel=1e-3)


@pytest.mark.parametrize("floor", [0.05, 0.2])
def test_the_forecast_is_when_the_interval_excludes_zero(floor):
    """More units come at the present shares and rates; they move the estimate a little."""
    shares = {"control": floor / 2, "short": 1 - floor / 2}
    first = read(drawn(STARVED), serving=Serving(shares, floor))
    more = first.progress.units_to_decide - first.units
    for part, decided in ((0.75, False), (1.1, True)):
        arms = {
            arm: (round(more * part * share), 0.30 if arm == "control" else 0.36, share)
            for arm, share in shares.items()
        }
        later = read(drawn([*STARVED, arms]))
        assert (later.recommendation.action == "ship") is decided


def test_equal_variants_end_with_their_greatest_difference():
    shown = read(drawn([{"control": (6_000, 0.3, 0.5), "short": (6_000, 0.3, 0.5)}])).recommendation
    assert shown.action == "keep_control"
    assert "no difference from control is larger than" in shown.sentence
    assert "the cheaper" in shown.sentence
    three = dict.fromkeys(("control", "short", "long"), (4000, 0.3, 1 / 3))
    assert read(drawn([three])).recommendation.action == "keep_control"
    early = read(drawn([{name: (n // 4, rate, share) for name, (n, rate, share) in three.items()}]))
    assert early.recommendation.action == "wait"


def test_with_a_smallest_effect_that_matters_the_plan_ends_as_soon_as_it_is_excluded():
    data = drawn([{"control": (3_000, 0.30, 0.5), "short": (3_000, 0.31, 0.5)}], days=1.0)
    wide, narrow = (AnalysisPlan(minimum_effect=effect) for effect in (0.06, 0.02))
    assert read(data, wide).recommendation.action == "keep_control"
    waiting = read(data, narrow)
    assert waiting.recommendation.action == "wait"
    assert waiting.progress.units_to_decide > waiting.units
    assert waiting.progress.days_left > 0


def test_a_leader_that_a_larger_floor_would_prove_is_not_given_up():
    """After the expected units a starved leader waits for a larger floor; equal variants end."""
    plan = AnalysisPlan(expected_units=9_000)
    assert read(drawn(STARVED), plan, NOW).recommendation.action == "wait"
    alike = [EVEN, {"control": (225, 0.355, 0.025), "short": (8_775, 0.36, 0.975)}]
    assert read(drawn(alike), plan, NOW).recommendation.action == "keep_control"


def test_the_best_of_several_treatments_is_declared_and_the_unproven_rival_named():
    arms = {"control": (2_000, 0.3, 1 / 3), "short": (2_000, 0.4, 1 / 3), "long": (2_000, 0.39, 1 / 3)}
    shown = read(drawn([arms])).recommendation
    assert (shown.action, shown.variant) == ("ship", "short")
    assert "not yet proven better than long" in shown.sentence
    assert "converged" not in shown.sentence
    best = read(drawn([arms | {"short": (2_000, 0.5, 1 / 3)}])).recommendation
    assert "The bandit has converged: short is better than every other variant" in best.sentence


def test_a_bandit_that_converged_to_its_control_keeps_it():
    shown = read(drawn([{"control": (5_000, 0.36, 0.5), "short": (5_000, 0.25, 0.5)}])).recommendation
    assert (shown.action, shown.variant) == ("keep_control", "control")
    assert shown.sentence.startswith("The bandit has converged: control is better than short")


@pytest.mark.parametrize(
    ("observed", "words"),
    [
        (
            Observed(variants=("control", "short"), control="control", cells=[], adaptive=True),
            "no unit has come",
        ),
        (drawn([{"control": (1, 1.0, 0.5), "short": (0, 0.0, 0.5)}]), "no unit of short has a value"),
        (
            drawn([{"control": (900, 0.0, 0.5), "short": (900, 0.0, 0.5)}], days=1.0),
            "have the same solved so far",
        ),
        (drawn([EVEN], retired=("short",)), "only one variant is still served"),
        (drawn([EVEN], days=None), "A decision is expected after about"),
    ],
)
def test_what_cannot_be_said_is_not_said(observed, words):
    shown = read(observed, serving=Serving({"control": 0.5, "short": 0.5}, 0.05))
    assert shown.recommendation.action == "wait"
    assert words in shown.recommendation.sentence
    if observed.days is None:
        assert shown.progress.days_left is None
        assert "traffic" not in shown.recommendation.sentence


def test_shares_that_give_a_variant_nothing_never_decide():
    shown = read(drawn(STARVED), serving=Serving({"control": 0.0, "short": 1.0}, 0.0))
    assert shown.progress.units_to_decide is None
    assert "The present shares never decide this. An exploration floor of 10% would need" in (
        shown.recommendation.sentence
    )


def test_a_retired_variant_is_not_waited_for():
    arms = {"control": (2_000, 0.3, 1 / 3), "short": (2_000, 0.45, 1 / 3), "long": (2_000, 0.44, 1 / 3)}
    assert not read(drawn([arms])).leader.declared
    shown = read(drawn([arms], retired=("long",)))
    assert shown.leader.declared
    assert shown.recommendation.sentence.startswith("The bandit has converged")


COST = Metric(key="cost", measure=Mean("cost"), direction="lower")
ERROR = Metric(key="error", measure=Mean("error"), role="guardrail", direction="lower", margin=Margin(0.1))


@pytest.mark.parametrize(
    ("solved", "error", "action", "words"),
    [
        (900, 0.11, "ship", "Proven harm: cost of b is worse than the control's: +0.4"),
        (900, 0.9, "keep_control", "error of b is worse than the control's: +0.8"),
        (500, 0.11, "wait", "Proven harm: cost of b is worse than the control's: +0.4"),
    ],
)
def test_proven_harm_on_another_metric_is_in_the_sentence(solved, error, action, words):
    cells = [
        Cell(
            1,
            arm,
            5_000,
            {
                "solved": ProportionTotals(5_000, successes),
                "cost": MeanTotals(5_000, cost, 500.0),
                "error": MeanTotals(5_000, errors, 50.0),
            },
        )
        for arm, successes, cost, errors in (("a", 500, 1.0, 0.1), ("b", solved, 1.4, error))
    ]
    data = Observed(variants=("a", "b"), control="a", cells=cells)
    shown = read(data, AnalysisPlan(expected_units=50_000), metrics=(SOLVED, COST, ERROR)).recommendation
    assert shown.action == action
    assert words in shown.sentence


@settings(max_examples=40, deadline=None)
@given(
    units=st.tuples(st.integers(0, 3_000), st.integers(0, 3_000), st.integers(0, 3_000)),
    rates=st.tuples(*[st.sampled_from([0.0, 0.002, 0.1, 0.3, 0.36, 1.0])] * 3),
    served=st.tuples(*[st.sampled_from([0.0, 0.01, 0.3, 1.0])] * 3),
    floor=st.sampled_from([None, 0.0, 0.05, 1.0]),
    days=st.sampled_from([None, 1e-9, 2.0, 1e6]),
    minimum=st.sampled_from([None, 1e-9, 0.02, 10.0]),
)
def test_every_readout_has_a_sentence_and_sound_forecasts(units, rates, served, floor, days, minimum):
    names = ("control", "short", "long")
    arms = {name: (n, rate, 1 / 3) for name, n, rate in zip(names, units, rates, strict=True)}
    serving = Serving(dict(zip(names, served, strict=True)), floor)
    shown = read(drawn([arms], days=days), AnalysisPlan(minimum_effect=minimum), serving)
    assert shown.recommendation.sentence.endswith((".", "?"))
    progress = shown.progress
    for needed in [progress.units_to_decide, *(option.units_to_decide for option in progress.at_floors)]:
        assert needed is None or shown.units <= needed <= 1e12
    assert progress.days_left is None or (math.isfinite(progress.days_left) and progress.days_left >= 0)
    verdicts = [variant.verdict for variant in shown.metrics[0].variants]
    assert (shown.recommendation.action == "ship") is ("better" in verdicts)


def test_one_number_decides_and_the_sentence_says_why_p_best_differs():
    waiting, won = (
        read(drawn(STARVED), serving=NOW),
        read(drawn([EVEN, {"control": (600, 0.2, 0.1), "short": (5_400, 0.36, 0.9)}])),
    )
    beliefs = Beliefs(
        [("control", 0.001), ("short", 0.999)], 900, [("control", 0.025), ("short", 0.975)], adaptive=True
    )
    story = conclusion_of(waiting, beliefs)
    assert "P(best) of short is 99.9%" in story
    assert "do not drift" in story
    assert "the interval decides" in story
    assert "agrees" in conclusion_of(won, beliefs)
    other = beliefs._replace(probability_best=[("control", 0.8), ("short", 0.2)])
    assert "does not agree" in conclusion_of(won, other)
    assert "P(best)" not in conclusion_of(waiting, other), "nothing to explain"
    assert "P(best)" not in conclusion_of(waiting, beliefs._replace(rewards=0))
    assert conclusion_of(won, beliefs._replace(stopped="short")).endswith("short gets all traffic.")
    assert "best_arm stops by the same intervals" in conclusion_of(waiting, beliefs._replace(leads="short"))


PLANNED = [FixedHorizon(), GroupSequential((0.5, 1.0))]


@pytest.mark.parametrize("estimator", PLANNED)
def test_a_plan_with_looks_gives_verdicts_only_at_them(estimator):
    plan = AnalysisPlan(estimator=estimator, expected_units=10_000)
    for units, at_look in (
        (4_000, False),
        (9_700, False),
        (9_910, True),
        (10_000, True),
        (10_080, True),
        (13_000, False),
    ):
        n = units // 2
        data = Observed(
            variants=("a", "b"),
            control="a",
            cells=[
                Cell(1, arm, n, {"solved": ProportionTotals(n, round(n * rate))})
                for arm, rate in (("a", 0.2), ("b", 0.4))
            ],
        )
        shown = read(data, plan)
        row = shown.metrics[0].variants[1]
        assert (row.verdict == "better") is at_look
        assert shown.leader is None or shown.leader.declared is at_look
        assert (shown.recommendation.action == "ship") is at_look
        assert at_look or "planned at" in row.reason
    assert "history" in shown.recommendation.sentence


@pytest.mark.parametrize("estimator", PLANNED)
def test_rare_events_wait_for_the_look_too(estimator):
    cells = [Cell(1, arm, 2_000, {"solved": ProportionTotals(2_000, x)}) for arm, x in (("a", 0), ("b", 40))]
    data = Observed(variants=("a", "b"), control="a", cells=cells)
    always, planned = (
        read(data, plan).metrics[0].variants[1]
        for plan in (AnalysisPlan(), AnalysisPlan(estimator=estimator))
    )
    assert always.verdict == "better"
    assert planned.verdict == "not_enough_data"


def test_reading_a_fixed_horizon_at_every_look_keeps_alpha():
    """No effect, 100 looks: without the gate, a third of the runs would decide."""
    rng, runs, decided = np.random.default_rng(20261203), 120, 0
    plan = AnalysisPlan(estimator=FixedHorizon(), expected_units=4_000)
    for _ in range(runs):
        counts = rng.binomial(20, 0.3, (2, 100)).cumsum(axis=1)
        for look in (*range(0, 95, 8), 97, 98, 99):
            n = 20 * (look + 1)
            cells = [
                Cell(1, arm, n, {"solved": ProportionTotals(n, int(x))})
                for arm, x in zip("ab", counts[:, look], strict=True)
            ]
            row = read(Observed(variants=("a", "b"), control="a", cells=cells), plan).metrics[0].variants[1]
            if row.verdict != "not_enough_data":
                decided += 1
                break
    assert decided <= 18, "more than 18 of 120 at 6.5 % have a probability below 1e-3"


def test_words():
    assert [round_count(count) for count in (0, 17, 6_214, 123_456)] == ["1", "17", "6,200", "120,000"]
    assert [duration(days) for days in (1e-6, 1 / 24, 0.5, 2.1, 400, 4_000)] == [
        "less than a minute",
        "1 hour",
        "12 hours",
        "2.1 days",
        "400 days",
        "11 years",
    ]
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a"]) == "a"
    assert and_more(["a", "b", "c"], 2) == "a; b; and 1 more"
