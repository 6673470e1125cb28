"""A call that is repeated, as a job repeats it, never undoes how a rollout has ended."""

import asyncio
from typing import Any

import msgspec
import pytest

from app.core.errors import Conflict, InvalidInput
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.rollouts.model import Completed, RolledBack, Running, Stage
from app.rollouts.service import RolloutRequest
from tests.rollouts.stored import come, watermark

pytestmark = pytest.mark.anyio

STAGES = (Stage(share=0.1, duration_s=0), Stage(share=0.5, duration_s=0), Stage(share=1.0))
ACTIONS = ("start", "pause", "resume", "approve", "advance", "rollback")


def request(**changes: Any) -> RolloutRequest:
    fields = {"experiment": "summary", "canaries": ("new",), "guardrails": ("error_rate", "latency")}
    return RolloutRequest(**{**fields, "stages": STAGES, **changes})


async def now(engine) -> Any:
    return await ExperimentStore(engine).find("summary")


async def completed(rollouts, asked):
    rollout = await rollouts.begin(asked, "key 1")
    while not isinstance((await rollouts.get(rollout.id)).state, Completed):
        await rollouts.act(rollout.id, "advance", by="key 2", reason="seen in staging")
    return await rollouts.get(rollout.id)


async def taken_back(rollouts, asked):
    rollout = await rollouts.begin(asked, "key 1")
    return await rollouts.act(rollout.id, "rollback", by="key 2", reason="customers call")


async def harmed(rollouts, asked, engine, clock):
    rollout = await rollouts.begin(asked, "key 1")
    experiment = await now(engine)
    await come(engine, experiment, 0, units=4_000, errors=40, latency=1.0)
    await come(engine, experiment, 1, units=4_000, errors=400, latency=1.0)
    await watermark(engine, clock.now())
    assert await rollouts.look(rollout.id)
    return await rollouts.get(rollout.id)


@pytest.mark.parametrize("last", [Stage(share=1.0), Stage(share=0.9)])
async def test_the_request_of_a_completed_rollout_repeated_takes_nothing_from_the_promoted_version(
    rollouts, experiment, engine, last
):
    asked = request(stages=(*STAGES[:2], last))
    done = await completed(rollouts, asked)
    before = await now(engine)
    assert before.held == {"new": last.share}
    others = [asked, request(reason="again"), request(guardrails=("error_rate",)), request(start=False)]
    for other in others:
        with pytest.raises(Conflict, match=f"has already promoted 'new'.*\"after\": {done.id}"):
            await rollouts.begin(other, "key 1")
    assert await now(engine) == before
    assert len(await rollouts.page(experiment="summary", after=None, limit=10)) == 1


async def test_a_promoted_version_is_rolled_out_again_where_that_is_meant_and_only_once(
    rollouts, experiment, engine
):
    done = await completed(rollouts, request())
    again = request(after=done.id)
    second = await rollouts.begin(again, "key 1")
    assert (await now(engine)).held == {"new": 0.1}
    with pytest.raises(Conflict, match="has not ended"):
        await rollouts.begin(again, "key 1")
    await rollouts.act(second.id, "advance", by="key 2", reason="fine")
    await rollouts.act(second.id, "advance", by="key 2", reason="fine")
    with pytest.raises(Conflict, match=f"got {done.id}, expected {second.id}"):
        await rollouts.begin(again, "key 1")
    assert (await now(engine)).held == {"new": 1.0}


async def test_a_draft_of_before_the_promotion_does_not_undo_it(rollouts, experiment, engine):
    draft = await rollouts.begin(request(start=False), "key 1")
    done = await completed(rollouts, request())
    with pytest.raises(Conflict, match="has already promoted"):
        await rollouts.act(draft.id, "start", by="key 1", reason="")
    assert (await now(engine)).held == {"new": 1.0}
    meant = await rollouts.begin(request(start=False, after=done.id), "key 1")
    await rollouts.act(meant.id, "start", by="key 1", reason="")
    assert (await now(engine)).held == {"new": 0.1}


async def test_what_a_person_took_back_may_be_tried_again(rollouts, experiment, engine):
    back = await taken_back(rollouts, request())
    assert (await now(engine)).held == {"new": 0.0}
    await taken_back(rollouts, request(after=back.id))
    assert isinstance((await rollouts.begin(request(), "key 1")).state, Running)


async def test_harm_is_not_tried_again_by_a_repeated_request_that_has_a_reason(
    rollouts, experiment, engine, clock
):
    done = await harmed(rollouts, request(reason="release 7"), engine, clock)
    with pytest.raises(InvalidInput, match="needs a reason"):
        await rollouts.begin(request(), "key 1")
    for repeated in (request(reason="release 7"), request(reason="release 7", start=False)):
        with pytest.raises(Conflict, match=f'same request was rolled back for harm.*"after": {done.id}'):
            await rollouts.begin(repeated, "key 1")
    assert (await now(engine)).held == {"new": 0.0}
    assert isinstance((await rollouts.begin(request(reason="release 8"), "key 1")).state, Running)


async def test_after_names_a_rollout_that_ended_last(rollouts, experiment):
    with pytest.raises(Conflict, match="none has ended"):
        await rollouts.begin(request(after=1), "key 1")
    back = await taken_back(rollouts, request())
    with pytest.raises(Conflict, match=f"got {back.id + 1}, expected {back.id}"):
        await rollouts.begin(request(after=back.id + 1), "key 1")


async def test_requests_repeated_at_once_begin_one_rollout(rollouts, experiment, engine):
    done = await completed(rollouts, request())
    asked = request(after=done.id)
    answers = await asyncio.gather(
        *(rollouts.begin(asked, "key 1") for _ in range(4)), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["Conflict"] * 3 + ["Rollout"]


@pytest.mark.parametrize("end", ["completed", "taken back", "harmed", "experiment stopped"])
async def test_no_action_does_anything_to_a_rollout_that_has_ended(rollouts, experiment, engine, clock, end):
    match end:
        case "completed":
            rollout = await completed(rollouts, request())
        case "taken back":
            rollout = await taken_back(rollouts, request())
        case "harmed":
            rollout = await harmed(rollouts, request(), engine, clock)
        case _:
            rollout = await rollouts.begin(request(), "key 1")

            async def leave_it_due(experiment_id: int) -> None: ...

            await ExperimentService(ExperimentStore(engine), clock, leave_it_due).stop("summary", None)
            await rollouts.look(rollout.id)
    before = await now(engine), await rollouts.get(rollout.id), await rollouts.decisions(rollout.id)
    assert isinstance(before[1].state, Completed | RolledBack)
    for action in ACTIONS:
        for stage in (None, 0, 1):
            with pytest.raises(Conflict):
                await rollouts.act(rollout.id, action, by="key 3", reason="again", stage=stage)
    with pytest.raises(Conflict):
        await rollouts.discard(rollout.id)
    assert not await rollouts.look(rollout.id)
    after = await now(engine), await rollouts.get(rollout.id), await rollouts.decisions(rollout.id)
    assert after == before


@pytest.mark.parametrize("action", ["pause", "resume", "approve", "start"])
async def test_an_action_that_is_repeated_is_refused_and_changes_nothing(
    rollouts, experiment, engine, action
):
    rollout = await rollouts.begin(request(start=action != "start"), "key 1")
    if action == "resume":
        await rollouts.act(rollout.id, "pause", by="key 2", reason="")
    await rollouts.act(rollout.id, action, by="key 2", reason="")
    before = await now(engine), await rollouts.get(rollout.id), await rollouts.decisions(rollout.id)
    with pytest.raises(Conflict):
        await rollouts.act(rollout.id, action, by="key 2", reason="")
    after = await now(engine), await rollouts.get(rollout.id), await rollouts.decisions(rollout.id)
    assert after == before


async def test_a_plan_without_after_is_still_read(rollouts, experiment):
    """As rollouts that were stored before have it."""
    rollout = await rollouts.begin(request(), "key 1")
    stored = msgspec.to_builtins(rollout.plan)
    del stored["after"]
    assert msgspec.convert(stored, type(rollout.plan)) == rollout.plan
