"""The worker's loops of rollouts: what they show, and that one broken rollout does not stop the others."""

import math

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from app.core import limits as core_limits
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.rollouts import limits
from app.rollouts.gauges import Gauges
from app.rollouts.loop import RolloutLoops
from tests.rollouts.stored import DEFINITION
from tests.rollouts.test_service import harmful, healthy, request

pytestmark = pytest.mark.anyio


def shown(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def verdict(guardrail: str) -> float | None:
    return shown("wald_guardrail_state", experiment="summary", variant="new", guardrail=guardrail)


async def test_metrics_follow_a_rollout_from_its_start_to_its_end(rollouts, experiment, engine, clock):
    rollbacks = shown("wald_rollbacks_total", reason="harm") or 0
    decided = shown("wald_rollout_decisions_total", kind="roll_back", by="wald") or 0
    ages = shown("wald_rollout_decision_data_age_seconds_count") or 0
    await rollouts.begin(request(start=False), "key 1")
    rollout = await rollouts.begin(request(), "key 1")
    await healthy(engine, clock)
    await rollouts.look(rollout.id)
    clock.forward(7)
    await rollouts.measure()
    assert (verdict("error_rate"), verdict("latency")) == (1, 1)
    assert (shown("wald_rollouts", state="running"), shown("wald_rollouts", state="draft")) == (1, 1)
    assert shown("wald_rollout_look_age_seconds") == pytest.approx(7)
    await harmful(engine, clock, units=9_000)
    await rollouts.look(rollout.id)
    await rollouts.measure()
    assert math.isnan(verdict("error_rate") or 0), "an alert on -1 ends with the rollout"
    assert (shown("wald_rollouts", state="running"), shown("wald_rollouts", state="rolled_back")) == (0, 1)
    assert shown("wald_rollout_look_age_seconds") == 0
    assert shown("wald_rollbacks_total", reason="harm") == rollbacks + 1
    assert shown("wald_rollout_decisions_total", kind="roll_back", by="wald") == decided + 1
    assert shown("wald_rollout_decision_data_age_seconds_count") == ages + 1


async def test_series_of_guardrails_are_bounded(rollouts, experiment, engine, clock, monkeypatch):
    monkeypatch.setattr(core_limits, "LABEL_SETS_MAX", 1)
    rollout = await rollouts.begin(request(), "key 1")
    await healthy(engine, clock)
    await rollouts.look(rollout.id)
    gauges = Gauges()
    gauges.show([await rollouts.get(rollout.id)], {"running": 1}, clock.now())
    assert len(gauges._known) == 1


async def test_a_rollout_that_cannot_be_decided_is_named_and_does_not_stop_the_others(
    rollouts, experiment, engine, clock, monkeypatch
):
    async def leave_it_due(_: int) -> None: ...

    experiments = ExperimentService(ExperimentStore(engine), clock, leave_it_due)
    broken = await rollouts.begin(request(), "key 1")
    fields = {field: getattr(DEFINITION, field) for field in DEFINITION.__struct_fields__}
    await experiments.create(type(DEFINITION)(**fields | {"key": "other"}))
    await experiments.start("other")
    other = await rollouts.begin(request(experiment="other"), "key 1")
    async with engine.begin() as connection:
        await connection.execute(
            text('UPDATE rollouts SET plan = \'{"from": "a later version"}\' WHERE id = :id'),
            {"id": broken.id},
        )
    monkeypatch.setattr(limits, "ROLLOUT_LOOK_S", 0.01)
    loops = RolloutLoops(rollouts)
    look = next(loop for loop in loops.all() if loop.name == "rollouts")
    await look.run()
    assert list(loops.errors) == [f"rollout {broken.id}"]
    assert shown("wald_degraded", component="rollouts") == 1
    assert (await rollouts.get(other.id)).looked is not None
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM rollouts WHERE id = :id"), {"id": broken.id})
    await look.run()
    assert loops.errors == {}
    assert shown("wald_degraded", component="rollouts") == 0
