"""Rollouts on a real database: one decision, one change of shares, one webhook, whoever dies."""

import asyncio
from functools import partial
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from app.core.errors import Conflict, InvalidInput, NotFound, UnprocessableInput
from app.experiments.model import Definition, Experiment, Variant
from app.experiments.model import Draft as ExperimentDraft
from app.experiments.model import Paused as ExperimentPaused
from app.experiments.policies import FixedPolicy, ThompsonPolicy
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.rollouts.checks import resolve
from app.rollouts.gates import gate
from app.rollouts.life import shares_held
from app.rollouts.model import (
    Advance,
    Complete,
    Completed,
    Draft,
    Paused,
    RollBack,
    RolledBack,
    RolloutPlanRequest,
    Running,
    Stage,
)
from app.rollouts.service import RolloutRequest, RolloutService
from app.rollouts.store import RolloutStore
from app.webhooks.tables import webhook_messages
from tests.rollouts.stored import DEFINITION, come, watermark
from tests.rollouts.support import START

pytestmark = pytest.mark.anyio

STAGES = (Stage(share=0.1, duration_s=60), Stage(share=0.5, duration_s=60), Stage(share=1.0))


def request(**changes: Any) -> RolloutRequest:
    fields = {"experiment": "summary", "canaries": ("new",), "guardrails": ("error_rate", "latency")}
    return RolloutRequest(**{**fields, "stages": STAGES, **changes})


async def now(engine) -> Any:
    return await ExperimentStore(engine).find("summary")


async def messages(engine) -> list[tuple[str, str, Any]]:
    async with engine.connect() as connection:
        rows = await connection.execute(select(webhook_messages).order_by(webhook_messages.c.created_at))
        return [(row.key, row.type, msgspec.json.decode(row.body)) for row in rows]


async def healthy(engine, clock, units=6_000) -> None:
    experiment = await now(engine)
    await come(engine, experiment, 0, units=units, errors=units // 100, latency=1.0)
    await come(engine, experiment, 1, units=units, errors=units // 100, latency=1.0)
    await watermark(engine, clock.now())


async def harmful(engine, clock, units=4_000) -> None:
    experiment = await now(engine)
    await come(engine, experiment, 0, units=units, errors=units // 100, latency=1.0)
    await come(engine, experiment, 1, units=units, errors=units // 10, latency=1.0)
    await watermark(engine, clock.now())


async def test_the_first_stage_holds_its_share_in_an_epoch_of_its_own(
    rollouts, experiment, engine, announced
):
    rollout = await rollouts.begin(request(), "key 1")
    after = await now(engine)
    assert after.held == {"new": 0.1}
    assert after.epoch == experiment.epoch + 1 == rollout.epoch
    assert rollout.state.stage == 0
    assert announced == [experiment.id]
    assert [event.decision.__struct_config__.tag for event in await rollouts.decisions(rollout.id)] == [
        "started"
    ]
    assert [(key, kind) for key, kind, _ in await messages(engine)] == [
        (f"rollouts/{rollout.id}/decision/1", "rollout.started")
    ]


async def test_a_healthy_canary_goes_to_the_end(rollouts, experiment, engine, clock):
    rollout = await rollouts.begin(request(), "key 1")
    assert not await rollouts.look(rollout.id), "nothing is known yet"
    await healthy(engine, clock)
    assert not await rollouts.look(rollout.id), "the stage lasts a minute"
    clock.forward(61)
    await watermark(engine, clock.now())
    assert gate(await rollouts.get(rollout.id)).value == 0
    assert await rollouts.look(rollout.id)
    assert (await now(engine)).held == {"new": 0.5}
    clock.forward(61)
    await healthy(engine, clock)
    assert await rollouts.look(rollout.id)
    ended = await rollouts.get(rollout.id)
    assert isinstance(ended.state, Completed)
    assert gate(ended).value == 1
    assert (await now(engine)).held == {"new": 1.0}
    steps = [event.decision for event in await rollouts.decisions(rollout.id)]
    assert steps[1:] == [Advance(to_stage=1), Complete()]
    assert not await rollouts.look(rollout.id)
    assert [kind for _, kind, _ in await messages(engine)][-2:] == ["rollout.advanced", "rollout.completed"]


async def test_harm_rolls_back_once_with_a_receipt_that_computes_again(rollouts, experiment, engine, clock):
    rollout = await rollouts.begin(request(), "key 1")
    await harmful(engine, clock)
    assert await rollouts.look(rollout.id)
    assert not await rollouts.look(rollout.id)
    assert (await now(engine)).held == {"new": 0.0}
    ended = await rollouts.get(rollout.id)
    assert isinstance(ended.state, RolledBack)
    assert gate(ended).roll_back
    with pytest.raises(InvalidInput, match="needs a reason"):
        await rollouts.begin(request(), "key 1")
    taken, receipt, differs = await rollouts.explain(rollout.id, 2)
    assert isinstance(taken.decision, RollBack)
    assert taken.decision.canaries == ("new",)
    assert receipt is not None
    assert differs == ()
    key, kind, body = (await messages(engine))[-1]
    assert (key, kind) == (f"rollouts/{rollout.id}/decision/2", "rollout.rolled_back")
    assert body["data"]["severity"] == "critical"
    assert body["data"]["notice"]["guardrails"][0]["verdict"] == "harm"


async def test_workers_that_look_at_once_decide_once(rollouts, experiment, engine, clock):
    rollout = await rollouts.begin(request(), "key 1")
    await harmful(engine, clock)
    decided = await asyncio.gather(*(rollouts.look(rollout.id) for _ in range(4)))
    assert sum(decided) == 1
    assert len(await rollouts.decisions(rollout.id)) == 2
    assert len(await messages(engine)) == 2


class Crash(Exception):
    """What a dying process leaves behind: an open transaction."""


@pytest.mark.parametrize("step", ["hold", "move", "note", "take", "tell"])
async def test_a_crash_between_any_two_steps_leaves_nothing_half_done(
    engine, clock, rollouts, experiment, step, monkeypatch
):
    rollout = await rollouts.begin(request(), "key 1")
    await harmful(engine, clock)
    before = await now(engine)

    async def die(*_: Any, **__: Any) -> None:
        raise Crash

    store = RolloutStore(engine)
    monkeypatch.setattr(store, step, die)

    async def on_change(_: int) -> None: ...

    with pytest.raises(Crash):
        await RolloutService(store, clock, on_change).look(rollout.id)
    assert await now(engine) == before
    assert len(await rollouts.decisions(rollout.id)) == len(await messages(engine)) == 1
    assert await rollouts.look(rollout.id)
    assert (await now(engine)).epoch == before.epoch + 1
    assert len(await rollouts.decisions(rollout.id)) == len(await messages(engine)) == 2


@pytest.mark.parametrize("by_hand", [False, True])
async def test_a_worker_that_is_paused_past_its_lease_has_decided_nothing(
    rollouts, experiment, engine, clock, monkeypatch, by_hand
):
    rollout = await rollouts.begin(request(), "key 1")
    await harmful(engine, clock)
    slow, inside, goes_on = RolloutStore(engine), asyncio.Event(), asyncio.Event()
    tell = slow.tell

    async def paused(connection: Any, **message: Any) -> None:
        await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 300"))
        inside.set()
        await goes_on.wait()
        await tell(connection, **message)

    monkeypatch.setattr(slow, "tell", paused)

    async def on_change(_: int) -> None: ...

    stopped = asyncio.create_task(RolloutService(slow, clock, on_change).look(rollout.id))
    await inside.wait()
    assert not await rollouts.look(rollout.id), "it is being decided"
    if by_hand:
        await rollouts.act(rollout.id, "rollback", by="key 2", reason="customers call")
    else:
        while not await rollouts.look(rollout.id):  # noqa: ASYNC110 - PostgreSQL tells nobody
            await asyncio.sleep(0.05)
    goes_on.set()
    with pytest.raises(DBAPIError):
        await stopped
    steps = await rollouts.decisions(rollout.id)
    assert [event.by for event in steps] == ["key 1", "key 2" if by_hand else None]
    assert (await now(engine)).held == {"new": 0.0}
    assert len(await messages(engine)) == 2


async def test_a_decision_whose_commit_fails_is_neither_counted_nor_announced(
    engine, clock, rollouts, experiment, announced, monkeypatch
):
    rollout = await rollouts.begin(request(), "key 1")
    await harmful(engine, clock)
    store = RolloutStore(engine)
    tell = store.tell

    async def loses_its_session(connection: Any, **message: Any) -> None:
        await tell(connection, **message)
        session = await connection.scalar(text("SELECT pg_backend_pid()"))
        async with engine.connect() as other:
            await other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": session})

    monkeypatch.setattr(store, "tell", loses_its_session)

    async def on_change(experiment_id: int) -> None:
        announced.append(experiment_id)

    def counted() -> list[float | None]:
        told = {"kind": "roll_back", "by": "wald"}
        return [
            REGISTRY.get_sample_value("wald_rollbacks_total", {"reason": "harm"}),
            REGISTRY.get_sample_value("wald_rollout_decisions_total", told),
            REGISTRY.get_sample_value("wald_rollout_decision_data_age_seconds_count"),
        ]

    before, published = counted(), list(announced)
    with pytest.raises(DBAPIError):
        await RolloutService(store, clock, on_change).look(rollout.id)
    assert (counted(), announced) == (before, published)
    assert len(await rollouts.decisions(rollout.id)) == len(await messages(engine)) == 1
    assert await rollouts.look(rollout.id)
    assert counted()[0] == (before[0] or 0) + 1


async def test_a_publication_that_fails_undoes_no_decision(engine, clock, experiment):
    async def fail(_: int) -> None:
        raise OSError("Valkey is away")

    rollouts = RolloutService(RolloutStore(engine), clock, fail)
    rollout = await rollouts.begin(request(), "key 1")
    assert (await now(engine)).held == {"new": 0.1}
    await harmful(engine, clock)
    assert await rollouts.look(rollout.id)
    assert (await now(engine)).held == {"new": 0.0}


async def test_broken_or_missing_data_hold_and_send_one_alert(rollouts, experiment, engine, clock):
    rollout = await rollouts.begin(request(), "key 1")
    clock.forward(61)
    for _ in range(3):
        assert not await rollouts.look(rollout.id)
        clock.forward(1)
    held = [body for _, kind, body in await messages(engine) if kind == "rollout.held"]
    assert len(held) == 1
    assert held[0]["data"]["notice"]["decision"]["reason"] == "missing_data"
    looked = (await rollouts.get(rollout.id)).looked
    assert looked is not None
    assert looked.decision.reason == "missing_data"


async def test_an_alert_is_sent_again_after_a_step_and_closed_when_it_is_over(
    rollouts, experiment, engine, clock
):
    rollout = await rollouts.begin(request(), "key 1")
    clock.forward(61)
    await rollouts.look(rollout.id)
    for action in ("pause", "resume"):
        clock.forward(1)
        await rollouts.act(rollout.id, action, by="key 2", reason="")
    for _ in range(2):
        clock.forward(1)
        await rollouts.look(rollout.id)
    await healthy(engine, clock, units=200)
    for _ in range(2):
        clock.forward(1)
        await rollouts.look(rollout.id)
    told = [(kind.removeprefix("rollout."), body["data"]) for _, kind, body in await messages(engine)]
    assert [kind for kind, _ in told] == ["started", "held", "paused", "resumed", "held", "recovered"]
    assert {data["incident"] for _, data in told} == {f"rollout-{rollout.id}"}
    assert [kind for kind, data in told if not data["resolved"]] == ["held", "held"]


async def test_a_gate_is_open_from_the_share_that_was_asked_for_to_the_end(
    rollouts, experiment, engine, clock
):
    rollout = await rollouts.begin(request(), "key 1")
    await rollouts.act(rollout.id, "advance", by="key 2", reason="seen in staging")
    reached = await rollouts.get(rollout.id)
    assert [gate(reached, share).value for share in (0.1, 0.5, 0.6, 1.0)] == [1, 1, 0, 0]
    assert gate(await rollouts.act(rollout.id, "pause", by="key 2", reason=""), 0.5).proceed
    await rollouts.act(rollout.id, "rollback", by="key 2", reason="customers call")
    back = gate(await rollouts.get(rollout.id), 0.1)
    assert (back.value, back.reason) == (-1, "customers call")


async def test_what_is_meant_for_one_stage_is_not_done_to_the_next(rollouts, experiment):
    rollout = await rollouts.begin(request(), "key 1")
    skip = partial(rollouts.act, rollout.id, "advance", by="key 2", reason="seen in staging", stage=0)
    await skip()
    with pytest.raises(Conflict, match="is in stage 1, not 0"):
        await skip()
    assert (await rollouts.get(rollout.id)).running.stage == 1


async def test_a_paused_rollout_is_still_rolled_back_and_does_not_advance(
    rollouts, experiment, engine, clock
):
    rollout = await rollouts.begin(request(), "key 1")
    await rollouts.act(rollout.id, "pause", by="key 2", reason="lunch")
    assert isinstance((await rollouts.get(rollout.id)).state, Paused)
    clock.forward(61)
    await healthy(engine, clock)
    assert not await rollouts.look(rollout.id)
    await harmful(engine, clock, units=8_000)
    assert await rollouts.look(rollout.id)
    assert (await now(engine)).held == {"new": 0.0}


async def test_people_skip_pause_resume_and_roll_back_with_their_reasons(rollouts, experiment, engine):
    rollout = await rollouts.begin(request(), "key 1")
    for action in ("advance", "rollback"):
        with pytest.raises(InvalidInput, match="must say why"):
            await rollouts.act(rollout.id, action, by="key 2", reason="")
    with pytest.raises(Conflict, match="cannot resume"):
        await rollouts.act(rollout.id, "resume", by="key 2", reason="")
    await rollouts.act(rollout.id, "advance", by="key 2", reason="seen in staging")
    assert (await now(engine)).held == {"new": 0.5}
    await rollouts.act(rollout.id, "pause", by="key 2", reason="")
    resumed = await rollouts.act(rollout.id, "resume", by="key 2", reason="")
    assert isinstance(resumed.state, Running)
    await rollouts.act(rollout.id, "rollback", by="key 3", reason="customers call")
    assert (await now(engine)).held == {"new": 0.0}
    with pytest.raises(Conflict, match="has ended"):
        await rollouts.act(rollout.id, "advance", by="key 2", reason="again")
    taken = await rollouts.decisions(rollout.id)
    assert [(event.by, event.reason) for event in taken] == [
        ("key 1", ""),
        ("key 2", "seen in staging"),
        ("key 2", ""),
        ("key 2", ""),
        ("key 3", "customers call"),
    ]
    await rollouts.begin(request(), "key 1")


async def test_a_rollout_needs_a_running_experiment_that_measures_its_guardrails(
    rollouts, experiment, engine, clock
):
    with pytest.raises(NotFound):
        await rollouts.begin(request(experiment="nobody"), "key 1")
    with pytest.raises(InvalidInput, match="is not measured") as caught:
        await rollouts.begin(request(guardrails=("error_rate", "judge_score")), "key 1")
    assert caught.value.errors[0].field == "guardrails[1]"
    await rollouts.begin(request(), "key 1")
    with pytest.raises(Conflict, match="has not ended"):
        await rollouts.begin(request(), "key 1")

    async def leave_it_due(_: int) -> None: ...

    experiments = ExperimentService(ExperimentStore(engine), clock, leave_it_due)
    best_arm = msgspec.convert({"kind": "best_arm"}, type(experiment.definition).__annotations__["policy"])
    other = msgspec.structs.replace(DEFINITION, key="other", policy=best_arm)
    await experiments.create(other)
    with pytest.raises(Conflict, match="draft"):
        await rollouts.begin(request(experiment="other"), "key 1")
    await experiments.start("other")
    with pytest.raises(UnprocessableInput, match="cannot hold shares"):
        await rollouts.begin(request(experiment="other"), "key 1")


async def test_an_experiment_that_is_stopped_ends_its_rollout(rollouts, experiment, engine, clock):
    rollout = await rollouts.begin(request(), "key 1")

    async def leave_it_due(_: int) -> None: ...

    await ExperimentService(ExperimentStore(engine), clock, leave_it_due).stop("summary", "new")
    assert await rollouts.look(rollout.id)
    assert isinstance((await rollouts.get(rollout.id)).state, RolledBack)
    assert (await rollouts.decisions(rollout.id))[-1].decision.reason == "ended"
    _, kind, body = (await messages(engine))[-1]
    assert (kind, body["data"]["severity"]) == ("rollout.rolled_back", "info")


async def test_harm_of_the_same_canary_is_not_forgotten_however_long_ago(rollouts, experiment, engine, clock):
    rollout = await rollouts.begin(request(), "key 1")
    await harmful(engine, clock)
    assert await rollouts.look(rollout.id)
    for _ in range(3):
        event = await rollouts.begin(request(reason="again"), "key 1")
        await rollouts.act(event.id, "rollback", by="key 2", reason="not today")
    with pytest.raises(InvalidInput, match=f"rollout {rollout.id} rolled back one of these canaries"):
        await rollouts.begin(request(), "key 1")


async def test_a_draft_changes_nothing_until_a_person_starts_it(
    rollouts, experiment, engine, clock, announced
):
    draft = await rollouts.begin(request(start=False), "key 1")
    assert isinstance(draft.state, Draft)
    assert await now(engine) == experiment
    assert await rollouts.active() == announced == await rollouts.decisions(draft.id) == []
    assert not await rollouts.look(draft.id)
    assert (gate(draft).proceed, gate(draft).roll_back) == (False, False)
    for action in ("pause", "approve", "advance", "rollback"):
        with pytest.raises(Conflict, match="start it first"):
            await rollouts.act(draft.id, action, by="key 2", reason="why not")
    clock.forward(3_600)
    begun = await rollouts.act(draft.id, "start", by="key 2", reason="the window is open")
    assert begun.state == Running(stage=0, entered_at=clock.now(), epoch=begun.epoch, canaries=("new",))
    assert (await now(engine)).held == {"new": 0.1}
    assert announced == [experiment.id]
    assert [(event.by, event.reason) for event in await rollouts.decisions(draft.id)] == [
        ("key 2", "the window is open")
    ]
    with pytest.raises(Conflict, match="has already begun"):
        await rollouts.act(draft.id, "start", by="key 2", reason="")
    with pytest.raises(Conflict, match="decisions are kept"):
        await rollouts.discard(draft.id)
    await harmful(engine, clock)
    assert await rollouts.look(draft.id)


async def test_a_draft_can_be_deleted_and_only_one_draft_can_be_started(rollouts, experiment):
    first, second = [await rollouts.begin(request(start=False), "key 1") for _ in range(2)]
    await rollouts.act(first.id, "start", by="key 1", reason="")
    with pytest.raises(Conflict, match="has not ended"):
        await rollouts.act(second.id, "start", by="key 1", reason="")
    await rollouts.discard(second.id)
    with pytest.raises(NotFound):
        await rollouts.get(second.id)


async def test_starts_at_once_begin_one_rollout(rollouts, experiment, engine):
    drafts = [await rollouts.begin(request(start=False), "key 1") for _ in range(4)]
    came = await asyncio.gather(
        *(rollouts.act(event.id, "start", by="key 1", reason="") for event in drafts), return_exceptions=True
    )
    assert sorted(type(event).__name__ for event in came) == ["Conflict"] * 3 + ["Rollout"]
    assert len(await rollouts.active()) == len(await messages(engine)) == 1


async def test_what_changes_no_share_is_not_announced(rollouts, experiment, announced):
    rollout = await rollouts.begin(request(), "key 1")
    for action in ("pause", "resume", "approve"):
        await rollouts.act(rollout.id, action, by="key 2", reason="")
    assert announced == [experiment.id]


@pytest.mark.parametrize("stands", ["killed", "paused"])
async def test_only_harm_decides_while_no_unit_gets_the_canary(rollouts, experiment, engine, clock, stands):
    rollout = await rollouts.begin(request(), "key 1")
    clock.forward(61)
    await healthy(engine, clock)

    def changed(event: Experiment, at: Any) -> Experiment:
        if stands == "killed":
            return msgspec.structs.replace(event, killed=True)
        return msgspec.structs.replace(event, state=ExperimentPaused(at, at))

    await ExperimentStore(engine).update("summary", changed, clock)
    assert not await rollouts.look(rollout.id)
    assert f"experiment is {stands}" in gate(await rollouts.get(rollout.id)).reason
    await harmful(engine, clock, units=8_000)
    assert await rollouts.look(rollout.id)
    assert (await now(engine)).held == {"new": 0.0}


THREE = msgspec.structs.replace(
    DEFINITION,
    variants=(Variant("old", control=True), Variant("new"), Variant("newer")),
    policy=FixedPolicy({"old": 1.0, "new": 0.0, "newer": 0.0}),
)


def stored(definition: Definition, **changes: Any) -> Experiment:
    times = {"created_at": START, "updated_at": START}
    fields = {"id": 1, "state": ExperimentDraft(), "salt": b"", "epoch": 1, "revision": 1} | times | changes
    return Experiment(definition=definition, **fields)


def test_a_control_that_a_fixed_policy_would_starve_gets_as_much_as_a_canary():
    plan = resolve(RolloutPlanRequest(canaries=("new",), guardrails=("error_rate",), stages=STAGES), THREE)
    state = Running(stage=0, entered_at=START, epoch=2, canaries=("new",))
    assert shares_held(stored(THREE), plan, state) == {"new": 0.1}
    policy = FixedPolicy({"old": 0.0, "new": 0.0, "newer": 1.0})
    starved = stored(msgspec.structs.replace(THREE, policy=policy))
    assert shares_held(starved, plan, state) == {"new": 0.1, "old": 0.1}
    assert shares_held(starved, plan, RolledBack(stage=0, ended_at=START)) == {"new": 0.0}


async def test_beside_a_version_that_was_promoted_there_is_no_control_to_compare_with(
    rollouts, engine, clock
):
    async def leave_it_due(_: int) -> None: ...

    experiments = ExperimentService(ExperimentStore(engine), clock, leave_it_due)
    await experiments.create(THREE)
    await experiments.start("summary")
    first = await rollouts.begin(request(), "key 1")
    for _ in range(2):
        await rollouts.act(first.id, "advance", by="key 2", reason="seen elsewhere")
    assert (await now(engine)).held == {"new": 1.0}
    with pytest.raises(Conflict, match="stop the experiment with its winner"):
        await rollouts.begin(request(canaries=("newer",)), "key 1")


def test_under_a_bandit_with_further_variants_the_control_is_held_too():
    variants = (Variant("old", control=True), Variant("new"), Variant("third"))
    definition = msgspec.structs.replace(DEFINITION, variants=variants, policy=ThompsonPolicy())
    bandit = stored(definition)
    plan = resolve(
        RolloutPlanRequest(canaries=("new",), guardrails=("error_rate",), stages=STAGES), definition
    )
    state = Running(stage=0, entered_at=START, epoch=2, canaries=("new",))
    assert shares_held(bandit, plan, state) == {"new": 0.1, "old": pytest.approx(0.9)}
    assert "old" not in shares_held(bandit, plan, RolledBack(stage=0, ended_at=START))
