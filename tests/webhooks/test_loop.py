"""The worker's loop: from a commit to the receiver, without being told."""

import asyncio
from random import Random

import pytest

from app.core.clock import SystemClock
from app.core.loops import Loops
from app.webhooks.dispatch import Dispatcher
from app.webhooks.loop import WebhookLoops
from app.webhooks.sender import Sender
from tests.support.polling import eventually
from tests.support.receiver import answer

pytestmark = pytest.mark.anyio
PATIENCE_S = 20


@pytest.fixture
def worker(store, policy):
    """Makes the loops of one worker."""

    def worker(seed=1):
        clock = SystemClock()
        dispatcher = Dispatcher(store, Sender(policy, clock), clock, Random(seed))
        return Loops(WebhookLoops(dispatcher).all(), clock=clock, random=Random(seed))

    return worker


async def test_a_committed_message_arrives_without_notification(endpoint, enqueue, worker, receiver):
    async with worker():
        told = await enqueue()
        async with asyncio.timeout(PATIENCE_S):
            await receiver.arrived.wait()
    assert receiver.received[0].headers["webhook-id"] == told


async def test_two_workers_deliver_each_message_once(endpoint, enqueue, worker, receiver, webhooks):
    async with worker(1), worker(2):
        told = {await enqueue(f"decision-{number}") for number in range(20)}
        await eventually(lambda: len(receiver.received) >= 20, within_s=PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            while not all(  # noqa: ASYNC110 - no event tells that it was recorded
                delivery.state == "delivered"
                for delivery in (await webhooks.deliveries(endpoint.id, after=None, limit=100))[0]
            ):
                await asyncio.sleep(0.02)
    assert sorted(received.headers["webhook-id"] for received in receiver.received) == sorted(told)


async def test_a_hanging_receiver_does_not_delay_others(endpoint, enqueue, worker, receiver):
    async def hang(writer):
        await asyncio.Event().wait()

    receiver.replies = [hang]
    async with worker():
        await enqueue("to the one that hangs")
        await eventually(lambda: len(receiver.received) == 1, within_s=PATIENCE_S)
        await enqueue("to one that answers")
        await eventually(lambda: len(receiver.received) == 2, within_s=PATIENCE_S)


async def test_a_worker_finishes_its_requests_before_it_ends(endpoint, enqueue, worker, receiver, webhooks):
    ending = asyncio.Event()

    async def reply_at_the_end(writer):
        await ending.wait()
        await answer(204)(writer)

    receiver.replies = [reply_at_the_end]
    async with worker():
        await enqueue()
        async with asyncio.timeout(PATIENCE_S):
            await receiver.arrived.wait()
        asyncio.get_running_loop().call_soon(ending.set)
    (delivery,), _ = await webhooks.deliveries(endpoint.id, after=None, limit=1)
    assert delivery.state == "delivered"


async def test_the_loop_reports_attempts_that_cannot_be_recorded_and_continues(
    endpoint, enqueue, worker, receiver, engine
):
    async def rename(before, after):
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"ALTER TABLE {before} RENAME TO {after}")

    await rename("webhook_attempts", "away")
    async with (loops := worker()):
        await enqueue()
        await eventually(lambda: loops.health()["webhooks"].error, within_s=PATIENCE_S)
        assert "webhook_attempts" in loops.health()["webhooks"].error
        await rename("away", "webhook_attempts")
        await enqueue("later")
        await eventually(lambda: len(receiver.received) >= 2, within_s=PATIENCE_S)
