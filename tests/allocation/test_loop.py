"""The worker's loop, from a commit to the message that servers hear."""

import asyncio
from contextlib import asynccontextmanager
from random import Random

import pytest

from app.assignment import snapshot
from app.assignment.store import REFILLED_ANNOUNCEMENT, WHOLE_KEY
from app.core.clock import SystemClock
from app.core.loops import Loops
from app.core.valkey import CHANGES_CHANNEL, registry_key
from app.experiments.model import Definition, Variant
from tests.support.totals import record

pytestmark = pytest.mark.anyio

VARIANTS = (Variant("control", control=True), Variant("short"))
PATIENCE_S = 20


@pytest.fixture
def loops(allocation_loops):
    return Loops(allocation_loops.all(), clock=SystemClock(), random=Random(20260101))


@asynccontextmanager
async def listening(valkey):
    """A function that waits for a message about a key."""
    async with valkey.pubsub() as changes:
        await changes.subscribe(CHANGES_CHANNEL)

        async def heard(key):
            async with asyncio.timeout(PATIENCE_S):
                async for message in changes.listen():
                    if message["type"] == "message" and message["data"] == key.encode():
                        return

        yield heard


async def test_a_commit_is_heard_by_servers(allocation_loops, loops, experiments, engine, valkey):
    experiment = await experiments.create(Definition(key="summary", variants=VARIANTS))
    async with loops, listening(valkey) as heard:
        await heard("summary")
        await record(engine, experiment, (50, 10), (50, 40))
        allocation_loops.on_commit([experiment.id])
        await heard("summary")
    now = snapshot.decode(await valkey.hget(registry_key("experiments"), "summary"))
    assert now.policy_version == 2
    assert now.weights[1] > now.weights[0]


async def test_what_another_process_made_due_is_found(allocation_loops, loops, experiments, valkey):
    async with loops, listening(valkey) as heard:
        await experiments.create(Definition(key="silent", variants=VARIANTS))
        await heard("silent")


async def test_a_valkey_that_lost_everything_gets_it_back_with_access(
    allocation_loops, loops, experiments, valkey
):
    await experiments.create(Definition(key="summary", variants=VARIANTS))
    async with loops:
        async with listening(valkey) as heard:
            await heard("summary")
        async with asyncio.timeout(PATIENCE_S):
            while not await valkey.exists(registry_key("whole")):  # noqa: ASYNC110 - the first refill may be on
                await asyncio.sleep(0.02)
        before = await valkey.hgetall(registry_key("experiments"))
        async with listening(valkey) as heard:
            await valkey.flushall()
            await heard(REFILLED_ANNOUNCEMENT)
    assert await valkey.hgetall(registry_key("experiments")) == before


async def test_an_experiment_that_cannot_be_read_does_not_stop_the_others(
    allocation_loops, loops, experiments, engine, valkey
):
    broken = await experiments.create(Definition(key="broken", variants=VARIANTS))
    async with engine.begin() as connection:
        unknown = """jsonb_set(definition::jsonb, '{policy,kind}', '"of a newer version"')"""
        await connection.exec_driver_sql(
            f"UPDATE experiments SET definition = {unknown} WHERE id = {broken.id}"
        )
    await experiments.create(Definition(key="sound", variants=VARIANTS))
    async with loops, listening(valkey) as heard:
        await heard("sound")
        async with asyncio.timeout(PATIENCE_S):
            while not allocation_loops.errors:  # noqa: ASYNC110 - no event tells of an error
                await asyncio.sleep(0.02)
    assert await valkey.hget(registry_key("experiments"), "broken") is None
    assert list(allocation_loops.errors) == [f"experiment {broken.id}"]


async def test_a_publication_that_valkey_refuses_is_made_when_it_can(
    allocation_loops, loops, experiments, engine, valkey
):
    experiment = await experiments.create(Definition(key="summary", variants=VARIANTS))
    async with loops, listening(valkey) as heard:
        await heard("summary")
        async with asyncio.timeout(PATIENCE_S):
            while not await valkey.exists(WHOLE_KEY):  # noqa: ASYNC110 - the refill of a new Valkey is over
                await asyncio.sleep(0.02)
        before = (await valkey.config_get("maxmemory"))["maxmemory"]
        await valkey.config_set("maxmemory", "1")
        try:
            await record(engine, experiment, (50, 10), (50, 40))
            allocation_loops.on_commit([experiment.id])
            async with asyncio.timeout(PATIENCE_S):
                while not loops.health()["reallocation"].error:  # noqa: ASYNC110 - no event tells of an error
                    await asyncio.sleep(0.02)
        finally:
            await valkey.config_set("maxmemory", before)
        await heard("summary")
