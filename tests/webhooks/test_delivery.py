"""From the outbox to a real receiver: signed, once while all goes well, again when not, never lost."""

import asyncio
from datetime import timedelta
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from standardwebhooks import Webhook, WebhookVerificationError

from app.core.clock import SystemClock
from app.core.telemetry import WEBHOOK_DELIVERIES
from app.jobs.limits import JOB_JITTER, JOB_RETRY_AFTER_S_MAX
from app.webhooks import limits
from app.webhooks.dispatch import Dispatcher
from app.webhooks.model import Adapter
from app.webhooks.schedule import WAITS_S
from app.webhooks.sender import Sender
from app.webhooks.service import EndpointChange, EndpointRequest, RotateRequest
from app.webhooks.tables import webhook_attempts, webhook_messages
from tests.support.receiver import answer

pytestmark = pytest.mark.anyio


@pytest.fixture
def signing(store, policy):
    """Dispatcher at the real time, which verification asks for."""
    clock = SystemClock()
    return Dispatcher(store, Sender(policy, clock), clock, Random(1))


@pytest.fixture
def outcome(webhooks):
    """A function that tells state and step-by-step answers of the newest delivery of an endpoint."""

    async def outcome(endpoint):
        page, _ = await webhooks.deliveries(endpoint.id, after=None, limit=1)
        return page[0]

    return outcome


async def attempt_all(dispatcher):
    for claim in await dispatcher.claim(100):
        await dispatcher.attempt(claim)


def counted(result):
    return WEBHOOK_DELIVERIES.labels(result)._value.get()


async def test_the_signature_is_verified_by_the_package_of_the_specification(
    webhooks, receiver, enqueue, signing
):
    _, secret = await webhooks.create(EndpointRequest(url=receiver.url))
    told = await enqueue(summary="żółć", experiment="e")
    await attempt_all(signing)
    (received,) = receiver.received
    assert received.headers["webhook-id"] == told
    data = Webhook(secret).verify(received.body, received.headers)
    assert data["data"] == {"summary": "żółć", "experiment": "e"}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(received.body + b" ", received.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(received.body, received.headers | {"webhook-id": "msg_other"})


async def test_after_a_rotation_both_secrets_verify_for_a_day_and_then_the_new_one(
    webhooks, receiver, enqueue, signing, clock, endpoint
):
    clock.at = SystemClock().now()
    _, old = await webhooks.rotate(endpoint.id, RotateRequest())
    _, new = await webhooks.rotate(endpoint.id, RotateRequest())
    await enqueue("during")
    await attempt_all(signing)
    (during,) = receiver.received
    assert len(during.headers["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        Webhook(secret).verify(during.body, during.headers)
    clock.forward(-limits.WEBHOOK_SECRET_OVERLAP_S - 1)
    _, newest = await webhooks.rotate(endpoint.id, RotateRequest())
    await enqueue("after")
    await attempt_all(signing)
    after = receiver.received[1]
    Webhook(newest).verify(after.body, after.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(after.body, after.headers)


async def test_a_delivered_message_is_not_sent_again(endpoint, enqueue, deliver, clock, receiver, outcome):
    before = counted("delivered")
    await enqueue()
    assert await deliver() == 1
    clock.forward(10 * 86_400)
    assert await deliver() == 0
    assert len(receiver.received) == 1
    delivery = await outcome(endpoint)
    assert (delivery.state, delivery.next_attempt_at) == ("delivered", None)
    (attempt,) = delivery.attempts
    assert (attempt.number, attempt.status, attempt.error) == (1, 204, None)
    assert counted("delivered") == before + 1


async def test_a_failure_is_repeated_by_the_schedule_with_the_same_id_and_then_given_up(
    endpoint, enqueue, deliver, clock, receiver, outcome, webhooks
):
    told = await enqueue()
    receiver.replies = [answer(500)] * len(WAITS_S)
    began = clock.now()
    for wait_s in WAITS_S:
        if wait_s:
            clock.forward(wait_s - 0.001)
            assert await deliver() == 0, "not before its time"
            clock.forward(0.001 + wait_s * JOB_JITTER)
        assert await deliver() == 1
        assert (await outcome(endpoint)).attempts[0].at == clock.now()
    assert {received.headers["webhook-id"] for received in receiver.received} == {told}
    stamps = [int(received.headers["webhook-timestamp"]) for received in receiver.received]
    assert stamps == sorted(set(stamps)), "each attempt has its own time"
    delivery = await outcome(endpoint)
    assert delivery.state == "given_up"
    assert [attempt.status for attempt in delivery.attempts] == [500] * len(WAITS_S)
    assert clock.now() - began > timedelta(hours=75)
    assert (await webhooks.get(endpoint.id)).failing_since == clock.now()
    clock.forward(10 * 86_400)
    assert await deliver() == 0


async def test_a_success_takes_the_mark_of_failing_off(
    endpoint, enqueue, deliver, receiver, store, webhooks, clock
):
    async with store.change() as connection:
        await store.update_endpoint(connection, endpoint.id, {"failing_since": clock.now()})
    await enqueue()
    await deliver()
    assert (await webhooks.get(endpoint.id)).failing_since is None


async def test_410_disables_the_endpoint_and_gives_up_what_waits(
    endpoint, enqueue, deliver, dispatcher, receiver, webhooks, clock
):
    for number in range(3):
        await enqueue(f"decision-{number}")
    receiver.replies = [answer(410)]
    first, *_ = await dispatcher.claim(1)
    await dispatcher.attempt(first)
    stored = await webhooks.get(endpoint.id)
    assert stored.disabled.reason == "the receiver answered 410 Gone"
    page, _ = await webhooks.deliveries(endpoint.id, after=None, limit=10)
    assert {delivery.state for delivery in page} == {"given_up"}
    await enqueue("later")
    clock.forward(86_400)
    assert await deliver() == 0
    assert len(receiver.received) == 1
    await webhooks.change(endpoint.id, EndpointChange(enabled=True))
    await enqueue("when enabled")
    assert await deliver() == 1


async def test_a_throttling_receiver_gets_the_pause_it_asks_for(endpoint, enqueue, deliver, receiver, clock):
    for status in (429, 502, 503, 504):
        await enqueue(f"decision-{status}")
        receiver.replies = [answer(status, "Retry-After: 600\r\n")]
        await deliver()
        clock.forward(599)
        assert await deliver() == 0
        clock.forward(1)
        assert await deliver() == 1


async def test_a_receiver_cannot_ask_for_a_pause_beyond_the_bound(
    endpoint, enqueue, deliver, receiver, clock
):
    await enqueue()
    receiver.replies = [answer(503, "Retry-After: 31536000\r\n")]
    await deliver()
    clock.forward(JOB_RETRY_AFTER_S_MAX)
    assert await deliver() == 1


async def test_a_worker_that_dies_after_sending_has_it_sent_again_with_the_same_id(
    endpoint, enqueue, deliver, dispatcher, sender, receiver, clock, outcome
):
    told = await enqueue()
    (claim,) = await dispatcher.claim(10)
    await dispatcher._send(claim, clock.now())  # and no more: the worker is dead
    assert await deliver() == 0, "another worker leaves it alone while the lease lasts"
    clock.forward(limits.WEBHOOK_LEASE_S)
    assert await deliver() == 1
    assert [received.headers["webhook-id"] for received in receiver.received] == [told, told]
    assert (await outcome(endpoint)).state == "delivered"


async def test_a_worker_that_was_away_for_longer_than_its_lease_records_nothing(
    endpoint, enqueue, deliver, dispatcher, receiver, clock, outcome
):
    await enqueue()
    (claim,) = await dispatcher.claim(10)
    clock.forward(limits.WEBHOOK_LEASE_S)
    assert await deliver() == 1
    receiver.replies = [answer(500)]
    await dispatcher.attempt(claim)
    delivery = await outcome(endpoint)
    assert delivery.state == "delivered"
    assert [attempt.number for attempt in delivery.attempts] == [2]


async def test_a_delivery_is_not_recorded_while_another_worker_sends_it(
    endpoint, enqueue, dispatcher, receiver, clock, outcome
):
    await enqueue()
    (stale,) = await dispatcher.claim(10)
    clock.forward(limits.WEBHOOK_LEASE_S)
    (claim,) = await dispatcher.claim(10)
    receiver.replies = [answer(500), answer(204)]
    await dispatcher.attempt(stale)
    assert (await outcome(endpoint)).state == "pending"
    await dispatcher.attempt(claim)
    delivery = await outcome(endpoint)
    assert (delivery.state, [attempt.number for attempt in delivery.attempts]) == ("delivered", [2])


async def test_two_workers_never_have_the_same_delivery(endpoint, enqueue, dispatcher, store, sender, clock):
    for number in range(12):
        await enqueue(f"decision-{number}")
    other = Dispatcher(store, sender, clock, Random(2))
    seen = []
    while True:
        claims = [
            claim
            for found in await asyncio.gather(*(one.claim(2) for one in (dispatcher, other) * 3))
            for claim in found
        ]
        if not claims:
            break
        seen += [claim.delivery_id for claim in claims]
        await asyncio.gather(*(dispatcher.attempt(claim) for claim in claims))
    assert len(seen) == len(set(seen)) == 12


async def test_a_slow_receiver_does_not_delay_other_endpoints(webhooks, receiver, enqueue, dispatcher):
    for path in ("slow", "fast"):
        await webhooks.create(EndpointRequest(url=f"{receiver.url}/{path}"))
    for number in range(10):
        await enqueue(f"decision-{number}")
    urls = [claim.url.rpartition("/")[2] for claim in await dispatcher.claim(100)]
    assert urls.count("slow") == urls.count("fast") == limits.WEBHOOK_ENDPOINT_SENDING_MAX
    assert await dispatcher.claim(100) == []


async def test_first_attempts_go_before_repeated_ones(
    endpoint, enqueue, deliver, dispatcher, receiver, clock
):
    receiver.replies = [answer(500)]
    failed = await enqueue("first")
    await deliver()
    clock.forward(60)
    fresh = await enqueue("second")
    assert [claim.message.webhook_id for claim in await dispatcher.claim(1)] == [fresh]
    assert [claim.message.webhook_id for claim in await dispatcher.claim(1)] == [failed]


async def test_a_given_up_message_can_be_sent_again_with_its_id(
    endpoint, enqueue, deliver, receiver, webhooks, outcome
):
    told = await enqueue()
    receiver.replies = [answer(410)]
    await deliver()
    await webhooks.change(endpoint.id, EndpointChange(enabled=True))
    given_up = await outcome(endpoint)
    assert (await webhooks.redeliver(given_up.id)).state == "pending"
    assert await deliver() == 1
    assert [received.headers["webhook-id"] for received in receiver.received] == [told, told]
    assert [attempt.status for attempt in (await outcome(endpoint)).attempts] == [204, 410]


async def test_a_failure_after_its_endpoint_was_disabled_is_the_last(
    endpoint, enqueue, dispatcher, receiver, webhooks, outcome
):
    await enqueue()
    (claim,) = await dispatcher.claim(1)
    await webhooks.change(endpoint.id, EndpointChange(enabled=False))
    receiver.replies = [answer(500)]
    await dispatcher.attempt(claim)
    assert (await outcome(endpoint)).state == "given_up"


async def test_an_endpoint_can_be_deleted_during_a_delivery(endpoint, enqueue, dispatcher, webhooks):
    await enqueue()
    (claim,) = await dispatcher.claim(1)
    await webhooks.delete(endpoint.id)
    await dispatcher.attempt(claim)
    assert await webhooks.list() == []


async def test_every_adapter_delivers(webhooks, receiver, enqueue, deliver):
    for adapter in Adapter:
        secret = None if adapter in {Adapter.STANDARD, Adapter.SLACK} else "a-token"
        await webhooks.create(EndpointRequest(url=receiver.url, adapter=adapter, secret=secret))
    await enqueue(summary="p95 is 31 % above the control", severity="error", experiment="e", variant="v")
    assert await deliver() == len(Adapter)
    for received in receiver.received:
        assert "31 %" in received.body.decode()
        assert received.headers["content-type"] == "application/json"
    assert len({received.body for received in receiver.received}) == len(Adapter)


async def test_a_message_that_cannot_be_built_fails_alone(
    webhooks, receiver, enqueue, deliver, engine, outcome
):
    endpoint, _ = await webhooks.create(EndpointRequest(url=receiver.url, adapter=Adapter.SLACK))
    await enqueue("broken")
    async with engine.begin() as connection:
        await connection.execute(webhook_messages.update().values(body="of a newer version"))
    await enqueue("sound")
    assert await deliver() == 2
    assert len(receiver.received) == 1
    page, _ = await webhooks.deliveries(endpoint.id, after=None, limit=2)
    assert sorted(delivery.state for delivery in page) == ["delivered", "failed"]


async def test_only_the_last_attempts_are_remembered(
    endpoint, enqueue, deliver, receiver, webhooks, clock, engine, outcome, monkeypatch
):
    monkeypatch.setattr(limits, "WEBHOOK_ATTEMPTS_KEPT", 4)
    await enqueue()
    for _ in range(4 + 5):
        receiver.replies = [answer(500)]
        assert await deliver() == 1
        await webhooks.redeliver((await outcome(endpoint)).id)
    kept = [attempt.number for attempt in (await outcome(endpoint)).attempts]
    assert kept == [9, 8, 7, 6]
    async with engine.connect() as connection:
        rows = (await connection.execute(select(func.count()).select_from(webhook_attempts))).scalar_one()
    assert rows == 4


async def test_old_messages_go_unless_they_are_still_to_be_delivered(
    endpoint, enqueue, deliver, dispatcher, receiver, clock, engine
):
    receiver.replies = [answer(500)]
    await enqueue("failed")
    await deliver()
    await enqueue("delivered")
    await deliver()
    clock.forward(limits.WEBHOOK_HISTORY_S + 1)
    fresh = await enqueue("fresh")
    await dispatcher.thin()
    async with engine.connect() as connection:
        keys = set((await connection.execute(select(webhook_messages.c.key))).scalars())
    assert keys == {"failed", "fresh"}
    assert fresh


class Life:
    """One endpoint's, step by step: events are told, attempts made, workers die, time passes."""

    def __init__(self, endpoint, webhooks, receiver, enqueue, dispatcher, clock):
        self.endpoint, self.webhooks, self.receiver = endpoint, webhooks, receiver
        self.enqueue, self.dispatcher, self.clock = enqueue, dispatcher, clock
        self.ids: dict[str, str] = {}

    async def tell(self, number):
        key = f"{self.endpoint.id}:{number}"
        told = await self.enqueue(key)
        assert self.ids.setdefault(key, told) == told

    async def send(self, status):
        for claim in await self.dispatcher.claim(1):
            self.receiver.replies = [answer(status)]
            await self.dispatcher.attempt(claim)

    async def die_before_sending(self, _):
        await self.dispatcher.claim(1)

    async def die_after_sending(self, status):
        for claim in await self.dispatcher.claim(1):
            self.receiver.replies = [answer(status)]
            await self.dispatcher._send(claim, self.clock.now())

    async def wait(self, seconds):
        self.clock.forward(seconds)

    async def send_again(self, _):
        for delivery in await self.deliveries():
            if delivery.state in {"delivered", "given_up"}:
                await self.webhooks.redeliver(delivery.id)

    async def deliveries(self):
        return (await self.webhooks.deliveries(self.endpoint.id, after=None, limit=100))[0]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just(Life.tell), st.integers(0, 2)),
        st.tuples(st.just(Life.send), st.sampled_from([204, 500, 503, 302])),
        st.tuples(st.just(Life.die_before_sending), st.none()),
        st.tuples(st.just(Life.die_after_sending), st.sampled_from([204, 500])),
        st.tuples(st.just(Life.wait), st.sampled_from([1, 60, 4_000])),
        st.tuples(st.just(Life.send_again), st.none()),
    ),
    max_size=14,
)


@given(steps=STEPS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
async def test_no_death_of_a_process_loses_a_message_or_changes_its_id(
    steps, webhooks, receiver, enqueue, dispatcher, clock
):
    """Any order of events, attempts, deaths and waits; then one worker that lives."""
    endpoint, _ = await webhooks.create(EndpointRequest(url=receiver.url))
    receiver.received.clear()
    life = Life(endpoint, webhooks, receiver, enqueue, dispatcher, clock)
    for step, argument in steps:
        await step(life, argument)
    clock.forward(2 * 86_400)
    receiver.replies = []
    while claims := await dispatcher.claim(10):
        for claim in claims:
            await dispatcher.attempt(claim)
    deliveries = await life.deliveries()
    assert all(delivery.state == "delivered" for delivery in deliveries)
    assert {delivery.webhook_id for delivery in deliveries} == set(life.ids.values())
    assert {received.headers["webhook-id"] for received in receiver.received} == set(life.ids.values())
    await webhooks.delete(endpoint.id)
