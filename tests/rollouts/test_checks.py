"""Plans that fit their experiment, and those that do not, with the field that is wrong."""

import msgspec
import pytest

from app.core.errors import InvalidInput
from app.experiments.metrics import Margin, Mean, Metric, QuantileOf
from app.experiments.model import Definition, Variant
from app.rollouts.checks import check, resolve
from app.rollouts.model import PRESETS, Guardrail, Limit, RolloutPlan, RolloutPlanRequest, Stage, Window
from tests.rollouts.support import ERRORS, plan_of

COST = Metric(
    key="cost", measure=Mean("cost"), role="guardrail", direction="lower", margin=Margin(0.1, relative=True)
)
SCORE = Metric(key="score", measure=Mean("score"), role="primary")
LENGTH = Metric(key="length", measure=Mean("length"))
DEFINITION = Definition(
    key="prompt",
    variants=(Variant("old", control=True), Variant("new"), Variant("other")),
    metrics=(COST, SCORE, LENGTH),
)


def asked(**fields) -> RolloutPlanRequest:
    body = {"canaries": ["new"], "guardrails": ["latency", "cost"], **fields}
    return msgspec.json.decode(msgspec.json.encode(body), type=RolloutPlanRequest)


def test_named_guardrails_are_the_experiments_own_or_presets():
    plan = resolve(asked(), DEFINITION)
    assert [one.metric for one in plan.guardrails] == [PRESETS["latency"], COST]
    assert plan.secondary == (LENGTH,)
    assert [stage.share for stage in plan.stages] == [0.01, 0.05, 0.25, 1.0]
    assert plan.stages[0].duration_s == 86_400
    assert msgspec.json.decode(msgspec.json.encode(plan), type=RolloutPlan) == plan


def test_guardrails_may_be_written_out():
    body = {
        "metric": {
            "key": "p99",
            "measure": {"kind": "quantile", "signal": "latency", "q": 0.99},
            "role": "guardrail",
            "direction": "lower",
            "margin": {"size": 0.3, "relative": True},
        },
        "baseline": {"mean": 1.2, "sd": 0.6},
    }
    plan = resolve(asked(guardrails=[body]), DEFINITION)
    assert plan.guardrails[0].metric.measure == QuantileOf("latency", 0.99)


def test_a_primary_metric_may_bring_its_margin():
    plan = resolve(asked(primary={"metric": "score", "margin": {"size": 0.05}}), DEFINITION)
    assert plan.primary.metric.margin == Margin(0.05)
    assert (
        resolve(asked(primary={"metric": "score", "test": "superior"}), DEFINITION).primary.test == "superior"
    )


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"canaries": ["absent"]}, "canaries[0]"),
        ({"canaries": ["old"]}, "canaries[0]"),
        ({"canaries": ["new", "new"]}, "canaries"),
        ({"guardrails": ["speed"]}, "guardrails[0]"),
        ({"guardrails": ["latency", "length"]}, "guardrails[1]"),
        ({"guardrails": ["latency", "latency"]}, "guardrails"),
        ({"limits": [{"metric": "error_rate", "beyond": 0.5}]}, "limits[0].metric"),
        ({"stages": [{"share": 1.0}]}, "stages[0].share"),
        ({"stages": [{"share": 0.1}, {"share": 0.1}]}, "stages[1].share"),
        ({"primary": {"metric": "absent"}}, "primary.metric"),
        ({"primary": {"metric": "score"}}, "primary.metric"),
    ],
)
def test_what_does_not_fit_is_named(fields, wrong):
    with pytest.raises(InvalidInput) as raised:
        resolve(asked(**fields), DEFINITION)
    assert wrong in {error.field for error in raised.value.errors}


def test_a_metric_cannot_fall_by_all_of_its_value():
    metric = msgspec.structs.replace(COST, direction="higher", margin=Margin(1.0, relative=True))
    with pytest.raises(InvalidInput, match="cannot fall by more than its value"):
        check(plan_of(Guardrail(metric=metric)), DEFINITION)


def rate(size, *, mean=0.01, relative=False):
    measure = {"kind": "proportion", "signal": "error"}
    margin = {"size": size, "relative": relative}
    metric = {"key": "rate", "measure": measure, "role": "guardrail", "direction": "lower", "margin": margin}
    return {"metric": metric, "baseline": {"mean": mean, "sd": 0.1}}


@pytest.mark.parametrize(
    ("guardrail", "field"),
    [
        (rate(1.0), "guardrails[0].metric.margin.size"),
        (rate(1e10, relative=True), "guardrails[0].metric.margin.size"),
        (rate(0.02, mean=1.5), "guardrails[0].baseline.mean"),
    ],
)
def test_what_a_proportion_cannot_be_is_named(guardrail, field):
    with pytest.raises(InvalidInput) as raised:
        resolve(asked(guardrails=[guardrail]), DEFINITION)
    assert [error.field for error in raised.value.errors] == [field]
    assert resolve(
        asked(
            guardrails=[
                rate(0.99),
            ]
        ),
        DEFINITION,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"canaries": []},
        {"guardrails": []},
        {"stages": []},
        {"alpha": 0},
        {"alpha": 1e-9},
        {"beta": 0.5},
        {"stages": [{"share": 0}]},
        {"stages": [{"share": 1.1}]},
        {"stages": [{"share": 0.1, "duration_s": 10, "duration_max_s": 5}]},
        {"stages": [{"share": 0.1, "then": "shrug"}]},
        {"windows": [{"weekdays": [7]}]},
        {"windows": [{"from_hour": 9, "to_hour": 9}]},
        {"limits": [{"metric": "latency", "beyond": 1, "units_min": 1}]},
        {"colour": "red"},
    ],
)
def test_what_is_out_of_bounds_does_not_construct(fields):
    with pytest.raises(msgspec.ValidationError):
        asked(**fields)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Guardrail(metric=LENGTH),
        lambda: Guardrail(metric=PRESETS["latency_p95"], test="sprt"),
        lambda: Stage(share=0.1, duration_s=9, duration_max_s=8),
        lambda: Window(from_hour=5, to_hour=5),
    ],
)
def test_contradictions_do_not_construct(make):
    with pytest.raises(ValueError):
        make()


def test_a_limit_is_on_a_guardrail_of_the_plan():
    assert check(plan_of(ERRORS, limits=(Limit("error_rate", 0.5),)), DEFINITION).limits
