"""Units, time and the size of the control, before a rollout."""

import msgspec
import numpy as np
import pytest

from app.analysis.harm.question import Baseline
from app.experiments.metrics import Margin, Mean, Metric, Proportion, QuantileOf
from app.rollouts import planner
from app.rollouts.model import PRESETS, Guardrail, Primary, Stage
from stats.quantiles import QuantileSketch
from stats.totals import JointTotals, MeanTotals, ProportionTotals
from tests.rollouts.support import ERRORS, LATENCY, TAIL, cell, observed_of, plan_of


def test_the_control_is_nine_times_a_canary_as_far_as_there_is_traffic():
    shares = [stage.control_share for stage in planner.stages(plan_of(ERRORS))]
    assert shares == pytest.approx([0.09, 0.45, 0.75])
    two = plan_of(ERRORS, canaries=("new", "other"))
    assert planner.control_share(two, 1) == pytest.approx(0.225)


def test_a_stage_takes_as_long_as_its_slowest_guardrail_and_no_less_than_its_minimum():
    plan = plan_of(ERRORS, LATENCY, TAIL)
    needed = {one.metric.key: planner.units_to_safe(plan, 0, one) for one in plan.guardrails}
    first, second, third = planner.stages(plan, units_per_day=20_000)
    assert first.slowest == max(needed, key=needed.get)
    assert first.canary_units == max(needed.values())
    assert first.units == pytest.approx(100 * first.canary_units)
    assert first.days == first.units / 20_000
    assert third.units < second.units < first.units
    assert planner.stages(plan, units_per_day=1e9)[0].days == 1.0


@pytest.mark.parametrize("guardrail", [ERRORS, LATENCY, TAIL, Guardrail(metric=PRESETS["thumbs_down"])])
def test_wider_margins_take_fewer_units(guardrail):
    margin = guardrail.metric.margin
    wider = msgspec.structs.replace(margin, size=2 * margin.size)
    metric = msgspec.structs.replace(guardrail.metric, margin=wider)
    easy = msgspec.structs.replace(guardrail, metric=metric)
    plan = plan_of(guardrail)
    assert planner.units_to_safe(plan, 0, easy) < planner.units_to_safe(plan, 0, guardrail)


def test_what_no_number_of_units_can_show_is_said_so():
    metric = Metric(
        key="tail",
        measure=QuantileOf("latency", 0.95),
        role="guardrail",
        direction="lower",
        margin=Margin(0.01, relative=True),  # finer than a sketch
    )
    plan = plan_of(ERRORS, Guardrail(metric=metric))
    shown = planner.stages(plan, units_per_day=1e6)[0]
    assert (shown.slowest, shown.canary_units, shown.units, shown.days) == ("tail", None, None, None)


def test_the_last_stage_also_waits_for_the_primary_metric():
    metric = Metric(key="score", measure=Mean("score"), role="primary", margin=Margin(0.02))
    primary = Primary(metric=metric, baseline=Baseline(0.5, 0.3))
    plan = plan_of(ERRORS, primary=primary, stages=(Stage(share=0.1), Stage(share=0.3), Stage(share=1.0)))
    first, last = planner.stages(plan)
    assert (first.slowest, last.slowest) == ("error_rate", "score")
    assert last.canary_units > first.canary_units
    superior = msgspec.structs.replace(plan, primary=msgspec.structs.replace(primary, test="superior"))
    assert planner.stages(superior)[1].slowest == "error_rate"


def test_baselines_come_from_the_control_before_the_start(rng):
    plan = plan_of(*(msgspec.structs.replace(one, baseline=None) for one in (ERRORS, LATENCY, TAIL)))
    known = planner.with_baselines(
        plan, observed_of(cell(rng, "old", 50_000), cell(rng, "new", 50, slower=9))
    )
    errors, latency, tail = (one.baseline for one in known.guardrails)
    assert errors.mean == pytest.approx(0.01, rel=0.15)
    assert errors.sd == pytest.approx(np.sqrt(errors.mean * (1 - errors.mean)), rel=1e-3)
    assert latency.mean == pytest.approx(LATENCY.baseline.mean, rel=0.02)
    assert latency.sd == pytest.approx(LATENCY.baseline.sd, rel=0.05)
    assert tail.mean == pytest.approx(latency.mean, rel=0.02)
    assert tail.sd == pytest.approx(latency.sd, rel=0.05)
    assert planner.with_baselines(plan_of(), observed_of(cell(rng, "old", 500, slower=9))) == plan_of()


@pytest.mark.parametrize(
    "totals",
    [
        None,
        MeanTotals(99, 1.0, 5.0),
        MeanTotals(1_000, 1.0, 0.0),
        ProportionTotals(1_000, 0),
        QuantileSketch(0.01, ((5, 1_000),)),
        JointTotals.none(2),
    ],
)
def test_too_little_or_a_constant_is_no_baseline(totals):
    measure = Proportion("x") if isinstance(totals, ProportionTotals) else Mean("x")
    assert planner.baseline(Metric(key="x", measure=measure), totals) is None
