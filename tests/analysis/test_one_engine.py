"""The readout and a rollout never contradict each other about the same claim at the same level."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.analysis.observed import Cell, Observed
from app.analysis.readout import guardrails
from app.analysis.readout.analyze import analyze
from app.experiments.metrics import Margin, Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.plan import AnalysisPlan
from app.rollouts.model import Guardrail, RolloutPlan, Running
from app.rollouts.verdicts import FIRST_START, read
from stats.quantiles import QuantileSketch
from stats.totals import JointTotals, MeanTotals, ProportionTotals

NOW = datetime(2026, 1, 5, tzinfo=UTC)
MEASURES = (Proportion("x"), Mean("x"), Mean("x", (0.0, 20.0)), Ratio("x", "y"), QuantileOf("x", 0.5))
UNITS = st.sampled_from([1, 2, 30, 99, 100, 150, 900, 4_000])


def totals(measure, values, sizes):
    """The totals of units with these values; a ratio has `sizes` as its denominators."""
    match measure:
        case Proportion():
            return ProportionTotals(len(values), int((values > 0.5).sum()))
        case Mean():
            return MeanTotals.from_observations(
                np.clip(values, *measure.cap) if measure.cap[0] == 0 else values
            )
        case Ratio():
            return JointTotals.from_observations(np.column_stack([values * sizes, sizes]))
        case _:
            return QuantileSketch.from_observations(values, accuracy=0.01)


@st.composite
def cells(draw, measure):
    """Totals of one to three epochs: of nothing, one unit, constants, zeros, and values that differ."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    location, spread = (
        draw(st.sampled_from([0.0, 0.3, 1.0, 7.0, -2.0])),
        draw(st.sampled_from([0.0, 0.1, 1.0])),
    )
    found = []
    for epoch in range(1, 1 + draw(st.sampled_from([1, 1, 1, 2, 3]))):
        for variant in ("old", "new"):
            units = draw(UNITS)
            shift = 0.0 if variant == "old" else draw(st.sampled_from([0.0, 0.02, 0.2, -0.2, 2.0, -7.0]))
            values = location + shift + spread * rng.standard_normal(units)
            sizes = rng.integers(0, 4, units).astype(float) * draw(st.sampled_from([0.0, 1.0, 1.0, 1.0]))
            nothing = draw(st.integers(0, 19)) == 0
            metrics = {} if nothing else {"x": totals(measure, values, sizes)}
            found.append(Cell(epoch, variant, units, metrics))
    return found


@st.composite
def claims(draw):
    measure = draw(st.sampled_from(MEASURES))
    metric = Metric(
        key="x",
        measure=measure,
        role="guardrail",
        direction=draw(st.sampled_from(["higher", "lower"])),
        margin=Margin(draw(st.sampled_from([0.02, 0.1, 0.5])), relative=draw(st.booleans())),
    )
    return metric, draw(cells(measure)), draw(st.sampled_from([0.01, 0.05, 0.2]))


def both(metric, found, level):
    """The row of the readout, and the reading of a rollout whose first start and safety have this level."""
    observed = Observed(variants=("old", "new"), control="old", cells=found)
    row = analyze(AnalysisPlan(alpha=level), [metric], observed).metrics[0].variants[1]
    plan = RolloutPlan(
        canaries=("new",), guardrails=(Guardrail(metric=metric),), alpha=level / FIRST_START, beta=level
    )
    state = Running(stage=0, entered_at=NOW, epoch=1, canaries=("new",))
    reading = read(plan, state, observed, findings=(), now=NOW, as_of=NOW).guardrails[0]
    return row, reading


@settings(max_examples=400)
@given(claims())
def test_the_readout_and_a_rollout_agree_on_the_same_claim_at_the_same_level(claim):
    metric, found, level = claim
    row, reading = both(metric, found, level)
    verdict = "safe" if row.verdict == "better" else row.verdict
    if reading.missing:  # a rollout also holds where the metric of too many units is unknown
        assert reading.verdict == "not_enough_data"
    elif len({cell.epoch for cell in found}) == 1:
        assert verdict == reading.verdict
        if reading.harm is not None and row.interval is not None and row.relative_interval is not None:
            assert row.relative_interval == reading.interval
    else:
        # A rollout also looks at the newest epochs alone, and knows which epochs have the same shares.
        assert {verdict, reading.verdict} != {"harm", "safe"} or reading.harm.since_epoch > 1


def test_the_property_sees_a_readout_with_a_rule_of_its_own(monkeypatch):
    """The planted bug: harm on the page as soon as the estimate is worse."""
    metric = Metric(key="x", measure=Mean("x"), role="guardrail", direction="lower", margin=Margin(0.1))
    found = [
        Cell(1, name, 200, {"x": MeanTotals(200, mean, 200.0)})
        for name, mean in (("old", 1.0), ("new", 1.01))
    ]
    assert both(metric, found, 0.05)[0].verdict == both(metric, found, 0.05)[1].verdict
    monkeypatch.setattr(guardrails, "_verdict", lambda _, answer: "harm" if answer.effect > 0 else "safe")
    row, reading = both(metric, found, 0.05)
    assert row.verdict != reading.verdict


@pytest.mark.parametrize("measure", MEASURES)
def test_every_kind_of_metric_has_harm_and_safety_in_both(measure):
    rng = np.random.default_rng(20260101)
    metric = Metric(
        key="x", measure=measure, role="guardrail", direction="lower", margin=Margin(0.5, relative=True)
    )
    for shift, verdict in ((0.0, "safe"), (2.0, "harm")):
        found = []
        for name, moved in (("old", 0.0), ("new", shift)):
            values = 1.0 + moved + 0.3 * rng.standard_normal(9_000)
            if isinstance(measure, Proportion):
                values = (rng.random(9_000) < 0.3 * (1 + moved)).astype(float)
            found.append(Cell(1, name, 9_000, {"x": totals(measure, values, np.ones(9_000))}))
        row, reading = both(metric, found, 0.05)
        assert (row.verdict, reading.verdict) == (verdict, verdict)
