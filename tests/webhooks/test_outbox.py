"""Events that other rooms leave in their own transactions."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from sqlalchemy import func, select

from app.core.errors import InvalidInput, TooLarge
from app.webhooks import limits
from app.webhooks.outbox import WebhookOutbox
from app.webhooks.service import EndpointChange, EndpointRequest
from app.webhooks.tables import webhook_deliveries, webhook_messages

pytestmark = pytest.mark.anyio

AT = datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))
EVENT = {"key": "decision-1", "type": "rollout.rolled_back", "data": {"experiment": "e"}, "at": AT}


async def counts(engine):
    async with engine.connect() as connection:
        counts = [
            (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in (webhook_messages, webhook_deliveries)
        ]
        return tuple(counts)


async def test_an_event_goes_to_every_enabled_endpoint_that_wants_it(webhooks, receiver, enqueue, deliver):
    for path, events in [
        ("all", ("*",)),
        ("mine", ("alert.*", "rollout.*")),
        ("others", ("alert.*",)),
        ("off", ("*",)),
    ]:
        endpoint, _ = await webhooks.create(EndpointRequest(url=f"{receiver.url}/{path}", events=events))
    await webhooks.change(endpoint.id, EndpointChange(enabled=False))
    await enqueue()
    assert await deliver() == 2
    assert sorted(received.target for received in receiver.received) == ["/hook/all", "/hook/mine"]


async def test_the_body_is_the_event_in_the_form_of_the_specification(
    endpoint, engine, receiver, deliver, clock
):
    clock.at = AT
    async with engine.begin() as connection:
        await WebhookOutbox().enqueue(connection, **EVENT)
    await deliver()
    assert receiver.received[0].body == (
        b'{"type":"rollout.rolled_back","timestamp":"2026-01-01T12:00:00Z","data":{"experiment":"e"}}'
    )


async def test_numbers_arrive_bit_for_bit(endpoint, enqueue, receiver, deliver):
    receipt = {"statistic": 0.1 + 0.2, "tiny": 5e-324, "count": 2**53 + 1, "order": {"z": 1, "a": 2}}
    await enqueue(receipt=receipt)
    await deliver()
    got = receiver.received[0].json["data"]["receipt"]
    assert got == receipt
    assert list(got["order"]) == ["z", "a"]


async def test_one_key_gives_one_message_for_any_number_of_calls(endpoint, engine, enqueue):
    first = await enqueue(experiment="e")
    assert await enqueue(experiment="another") == first
    assert await enqueue("decision-2") != first
    assert await counts(engine) == (2, 2)


async def test_one_key_from_two_transactions_gives_one_message(endpoint, engine):
    async def tell():
        async with engine.begin() as connection:
            told = await WebhookOutbox().enqueue(connection, **EVENT)
            await asyncio.sleep(0)
            return told

    assert len(set(await asyncio.gather(*(tell() for _ in range(6))))) == 1
    assert await counts(engine) == (1, 1)


async def test_a_transaction_that_is_rolled_back_sends_nothing(endpoint, engine, deliver, receiver):
    async with engine.connect() as connection, connection.begin() as transaction:
        await WebhookOutbox().enqueue(connection, **EVENT)
        await transaction.rollback()
    assert await deliver() == 0
    assert receiver.received == []
    assert await counts(engine) == (0, 0)


async def test_nothing_is_sent_before_the_commit(endpoint, engine, deliver):
    async with engine.begin() as connection:
        await WebhookOutbox().enqueue(connection, **EVENT)
        assert await deliver() == 0


async def test_without_an_endpoint_the_message_is_still_stored(engine, enqueue):
    await enqueue()
    assert await counts(engine) == (1, 0)


async def test_an_endpoint_disabled_meanwhile_has_no_open_deliveries(endpoint, engine, webhooks, deliver):
    """Whoever disables waits for the transaction that has seen the endpoint enabled."""
    async with engine.begin() as connection:
        await WebhookOutbox().enqueue(connection, **EVENT)
        disabling = asyncio.create_task(webhooks.change(endpoint.id, EndpointChange(enabled=False)))
        await blocked(engine)
        assert not disabling.done()
    await disabling
    page, _ = await webhooks.deliveries(endpoint.id, after=None, limit=10)
    assert [delivery.state for delivery in page] == ["given_up"]
    assert await deliver() == 0


async def test_an_event_during_the_disabling_of_its_endpoint_has_no_delivery(
    endpoint, engine, store, clock, enqueue
):
    async with store.change() as connection:
        await store.lock_endpoint(connection, endpoint.id)
        disabled = {"disabled_at": clock.now(), "disabled_reason": "a test"}
        await store.update_endpoint(connection, endpoint.id, disabled)
        telling = asyncio.create_task(enqueue())
        await blocked(engine)
    await telling
    assert await counts(engine) == (1, 0)


async def blocked(engine):
    """Until some session waits for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with asyncio.timeout(10), engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        while not (await connection.exec_driver_sql(waiting)).scalar_one():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


NO_EVENTS = [
    ({"type": "Rolled Back"}, "type"),
    ({"key": ""}, "key"),
    ({"key": "k" * 513}, "key"),
    ({"key": "k\0"}, "key"),
    ({"at": datetime(2026, 1, 1)}, "at"),  # noqa: DTZ001 - that is what is refused
    ({"data": {"p": float("nan")}}, "data.p"),
    ({"data": {"p": "\0"}}, "data.p"),
    ({"data": {"p": "\ud800"}}, "data.p"),
    ({"data": {"severity": "dreadful"}}, "data"),
    ({"data": {"summary": 7}}, "data"),
]


async def test_an_invalid_event_names_the_field(endpoint, engine):
    for wrong, field in NO_EVENTS:
        async with engine.begin() as connection:
            with pytest.raises(InvalidInput) as caught:
                await WebhookOutbox().enqueue(connection, **EVENT | wrong)
        assert [error.field for error in caught.value.errors] == [field]
    assert await counts(engine) == (0, 0)


async def test_a_message_must_be_smaller_than_receivers_may_take(endpoint, engine):
    def sized(data):
        return len(
            msgspec.json.encode({"type": EVENT["type"], "timestamp": AT.astimezone(UTC), "data": data})
        )

    room = limits.WEBHOOK_BODY_BYTES_MAX - sized({"text": ""})
    async with engine.begin() as connection:
        outbox = WebhookOutbox()
        await outbox.enqueue(connection, **EVENT | {"data": {"text": "a" * (room - 1)}})
        with pytest.raises(TooLarge, match="smaller than 20000 bytes; got 20000"):
            await outbox.enqueue(connection, **EVENT | {"key": "other", "data": {"text": "a" * room}})
        with pytest.raises(TooLarge):
            await outbox.enqueue(
                connection, **EVENT | {"key": "other", "data": {"text": "ä" * (room // 2 + 1)}}
            )
    assert await counts(engine) == (1, 1)
