"""Receipts: what was decided can be computed again from what is stored, to the last bit."""

from datetime import timedelta

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.analysis.harm.question import Baseline
from app.analysis.integrity import findings
from app.analysis.observed import Cell, Observed
from app.experiments.metrics import Margin, Mean, Metric, Proportion, QuantileOf, Ratio
from app.rollouts import limits
from app.rollouts.model import Guardrail, Primary, RollBack
from app.rollouts.receipt import EpochUnits, Notice, Receipt, differences, is_current, receipt
from app.webhooks.limits import WEBHOOK_BODY_BYTES_MAX
from stats.quantiles import QuantileSketch
from stats.srm import ArmCounts
from stats.totals import JointTotals, MeanTotals, ProportionTotals
from tests.rollouts.support import (
    DAY,
    ERRORS,
    LATENCY,
    LIMIT,
    START,
    cell,
    observed_of,
    paused,
    plan_of,
    running,
)

COST = Metric(
    key="cost",
    measure=Ratio("cost", "assignments"),
    role="guardrail",
    direction="lower",
    margin=Margin(0.1, relative=True),
)


def with_cost(cell, rng):
    values = rng.lognormal(size=(cell.units, 2))
    return Cell(
        cell.epoch, cell.variant, cell.units, {**cell.metrics, "cost": JointTotals.from_observations(values)}
    )


def made(rng, *, units=300, slower=1.0, error=0.01, at=DAY, **changes):
    plan = plan_of(limits=(LIMIT,))
    guardrails = (*plan.guardrails, Guardrail(metric=COST, baseline=Baseline(1.0, 1.0)))
    score = msgspec.structs.replace(plan.guardrails[1].metric, role="primary")
    plan = msgspec.structs.replace(
        plan, guardrails=guardrails, primary=Primary(metric=score), secondary=(score,)
    )
    cells = [
        with_cost(cell(rng, variant, n, epoch=epoch, slower=slow, error=err), rng)
        for epoch in (1, 2)
        for variant, n, slow, err in (("old", 20 * units, 1.0, 0.01), ("new", units, slower, error))
    ]
    observed = observed_of(*cells, assignments=[ArmCounts((20 * units, units), (20 / 21, 1 / 21))], **changes)
    return receipt(
        plan,
        running(epoch=2),
        observed,
        findings=findings(observed),
        now=START + at,
        as_of=START + at,
        wald="1.2.3",
        examples=[f"assignment-{k}" for k in range(30)],
    )


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    units=st.integers(1, 600),
    slower=st.floats(0.5, 3),
    error=st.floats(0, 1),
    hours=st.integers(0, 50),
)
def test_a_receipt_that_was_stored_as_json_reproduces_bit_for_bit(seed, units, slower, error, hours):
    rng = np.random.default_rng(seed)
    first = made(rng, units=units, slower=slower, error=error, at=timedelta(hours=hours))
    stored = msgspec.json.encode(first)
    again = msgspec.json.decode(stored, type=Receipt)
    assert again == first
    assert msgspec.json.encode(again) == stored
    assert differences(again) == ()


sizes = st.sampled_from([1e-9, 0.01, 0.3, 0.999])
means = st.floats(-1e6, 1e6)


@st.composite
def guardrails(draw):
    measure = draw(st.sampled_from([Proportion("x"), Mean("x"), QuantileOf("x", 0.9), Ratio("x", "y")]))
    mean = draw(st.floats(0, 1)) if isinstance(measure, Proportion) else draw(means)
    baseline = draw(st.sampled_from([None, Baseline(mean, draw(st.floats(1e-9, 1e6)))]))
    metric = Metric(
        key="x",
        measure=measure,
        role="guardrail",
        direction=draw(st.sampled_from(["higher", "lower"])),
        margin=Margin(draw(sizes), relative=draw(st.booleans())),
    )
    test = (
        draw(st.sampled_from(["sequence", "sprt"])) if isinstance(measure, Proportion | Mean) else "sequence"
    )
    return Guardrail(metric=metric, baseline=baseline, test=test)


@st.composite
def totals(draw, measure):
    n = draw(st.sampled_from([0, 1, 2, 99, 101, 1_000, 10**9]))
    if isinstance(measure, Proportion):
        return ProportionTotals(n, draw(st.integers(0, n)))
    if isinstance(measure, QuantileOf):
        number = draw(st.integers(-2_000, 2_000))
        return QuantileSketch.from_counts([(number, n), (number + 40, n // 3)], accuracy=0.01)
    mean, m2 = (draw(means), draw(st.floats(0, 1e9)) if n > 1 else 0.0) if n else (0.0, 0.0)
    if isinstance(measure, Ratio):
        return JointTotals(n, (mean, 1.0), (m2, 0.0, 0.0)) if n else JointTotals.none(2)
    return MeanTotals(n, mean, m2)


@settings(max_examples=300)
@given(data=st.data(), guardrail=guardrails())
def test_whatever_the_plan_and_the_totals_there_is_a_decision_and_its_receipt_reproduces(data, guardrail):
    cells = []
    for epoch in range(1, data.draw(st.integers(1, 3)) + 1):
        for variant in ("old", "new"):
            result = data.draw(totals(guardrail.metric.measure))
            cells.append(Cell(epoch, variant, result.n, {"x": result}))
    made = receipt(
        plan_of(guardrail),
        running(epoch=data.draw(st.integers(1, 3))),
        observed_of(*cells),
        findings=(),
        now=START + DAY,
        as_of=START + DAY,
        wald="1.2.3",
    )
    stored = msgspec.json.encode(made)
    assert differences(msgspec.json.decode(stored, type=Receipt)) == ()


def test_a_receipt_holds_statistic_threshold_units_interval_epochs_and_ten_examples(rng):
    shown = made(rng, slower=1.4)
    assert isinstance(shown.decision, RollBack)
    latency = next(item for item in shown.reading.guardrails if item.metric == "latency")
    assert latency.verdict == "harm"
    assert latency.harm.statistic >= latency.harm.threshold
    assert latency.interval[0] > 0
    assert {line.epoch for line in shown.inputs.observed.cells} == {1, 2}
    assert shown.examples == tuple(f"assignment-{k}" for k in range(10))


def test_a_notice_names_harm_first_and_fits_into_a_webhook(rng):
    many = tuple(
        msgspec.structs.replace(LATENCY, metric=msgspec.structs.replace(LATENCY.metric, key=f"latency-{k}"))
        for k in range(limits.ROLLOUT_GUARDRAILS_MAX - 1)
    )
    cells = []
    for epoch in range(1, 40):
        for variant, slower in (("old", 1.0), ("new", 1.3)):
            item = cell(rng, variant, 500, epoch=epoch, slower=slower)
            same = dict.fromkeys((guardrail.metric.key for guardrail in many), item.metrics["latency"])
            cells.append(Cell(epoch, variant, 500, {**item.metrics, **same}))
    made = receipt(
        plan_of(*many, ERRORS, limits=(LIMIT,)),
        running(epoch=5),
        observed_of(*cells),
        findings=findings(observed_of(*cells)),
        now=START + DAY,
        as_of=START + DAY,
        wald="1.2.3",
        examples=["x" * 60] * 10,
    )
    notice = Notice.of(made)
    assert {item.verdict for item in notice.guardrails} == {"harm"}
    assert notice.readings_left_out == limits.ROLLOUT_GUARDRAILS_MAX - limits.ROLLOUT_NOTICE_READINGS_MAX
    assert notice.epochs[-1] == EpochUnits(39, "old", 500)
    assert len(msgspec.json.encode(notice)) < WEBHOOK_BODY_BYTES_MAX
    assert len(msgspec.json.encode(made)) > WEBHOOK_BODY_BYTES_MAX


def test_what_was_changed_afterwards_is_found(rng):
    first = made(rng, slower=1.4)
    forged = msgspec.structs.replace(first, decision=made(rng, slower=0.9).decision)
    assert differences(forged) == ("decision",)
    fewer = msgspec.structs.replace(first.inputs.observed.cells[0], units=1)
    cells = (fewer, *first.inputs.observed.cells[1:])
    observed = msgspec.structs.replace(first.inputs.observed, cells=cells)
    assert differences(first) == ()
    state = paused(first.inputs.state, at=START)
    calm = made(np.random.default_rng(1), at=timedelta(hours=1))
    moved = msgspec.structs.replace(
        calm, inputs=msgspec.structs.replace(calm.inputs, state=state, observed=observed)
    )
    assert "decision" in differences(moved)


def test_a_receipt_of_the_tests_of_before_is_read_and_not_called_forged(rng):
    shown = made(rng, slower=1.4)
    stored = msgspec.to_builtins(shown)
    del stored["inputs"]["rules"]
    del stored["inputs"]["plan"]["after"]
    stored["reading"]["guardrails"][1]["harm"]["statistic"] += 0.1
    before = msgspec.convert(stored, Receipt)
    assert before.inputs.rules == 1
    assert before.decision == shown.decision
    assert (is_current(before), is_current(shown)) == (False, True)
    assert differences(before) == ()
    same = msgspec.structs.replace(before, inputs=shown.inputs)
    assert differences(same) == ("reading",)


def test_totals_of_every_kind_are_stored_without_loss(rng):
    cells = [with_cost(cell(rng, variant, 200), rng) for variant in ("old", "new")]
    observed = observed_of(*cells, adaptive=True, crossovers=3, days=1.5)
    back = msgspec.json.decode(msgspec.json.encode(observed.for_decision()), type=Observed)
    assert list(back.cells) == list(observed.cells)
    assert (back.adaptive, back.crossovers, back.days) == (True, 3, 1.5)
