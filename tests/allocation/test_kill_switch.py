"""Kills are recorded and announced once, in the same transaction."""

import asyncio
from datetime import timedelta

import msgspec
import pytest
from sqlalchemy import func, select, update

from app.allocation.kill_store import Kill, KillStore, encode
from app.allocation.kill_switch import KillSwitch
from app.allocation.tables import kills
from app.assignment.store import KILLED_KEY
from app.core.clock import SystemClock
from app.core.errors import InvalidInput, NotFound
from app.experiments.model import Definition, Variant
from app.webhooks.adapters import Severity, post_for
from app.webhooks.model import Adapter, Message
from app.webhooks.tables import webhook_messages

pytestmark = pytest.mark.anyio

DEFINITION = Definition(key="answers", variants=(Variant("v1", control=True), Variant("v2")))


@pytest.fixture
async def switch(engine, valkey, allocation, experiments) -> KillSwitch:
    experiment = await experiments.create(DEFINITION)
    await experiments.start("answers")
    await allocation.reallocate(experiment.id)
    return KillSwitch(KillStore(engine, valkey), SystemClock(), allocation.reallocate)


async def announcements(engine) -> list[Message]:
    async with engine.connect() as connection:
        rows = await connection.execute(select(webhook_messages).order_by(webhook_messages.c.created_at))
        return [Message(row.id, row.type, row.body, row.created_at) for row in rows]


async def test_a_kill_and_its_end_are_announced_once_each(switch, engine):
    for _ in range(2):
        assert (await switch.kill("answers", by="key 1", reason="it swears")).recorded
    await switch.record_waiting()
    for _ in range(2):
        await switch.revive("answers", by="key 2", reason="mended")
    messages = await announcements(engine)
    assert [one.type for one in messages] == ["experiment.killed", "experiment.revived"]
    data = [msgspec.json.decode(one.body)["data"] for one in messages]
    assert [(one["by"], one["reason"], one["resolved"]) for one in data] == [
        ("key 1", "it swears", False),
        ("key 2", "mended", True),
    ]
    assert {one["severity"] for one in data} == {Severity.CRITICAL}
    # A pager opens an incident by the first and closes the same by the second.
    pages = [
        msgspec.json.decode(post_for(Adapter.PAGERDUTY, one, secrets=["key"], at=one.created_at).body)
        for one in messages
    ]
    assert [page["event_action"] for page in pages] == ["trigger", "resolve"]
    assert pages[0]["dedup_key"] == pages[1]["dedup_key"]
    assert "it swears" in pages[0]["payload"]["summary"]
    for adapter in Adapter:
        assert post_for(adapter, messages[0], secrets=["whsec_c2VjcmV0"], at=messages[0].created_at).body
    alerts = [
        msgspec.json.decode(post_for(Adapter.ALERTMANAGER, one, secrets=[], at=one.created_at).body)[0]
        for one in messages
    ]
    assert alerts[0]["labels"] == alerts[1]["labels"], "by which Alertmanager knows what is over"


async def test_a_kill_made_now_counts_although_the_clock_of_the_last_revival_was_ahead(switch, engine):
    await switch.kill("answers", by="key 1", reason="it swears")
    await switch.revive("answers", by="key 2", reason="mended")
    async with engine.begin() as connection:
        await connection.execute(update(kills).values(ended_at=SystemClock().now() + timedelta(minutes=5)))
    again = await switch.kill("answers", by="key 1", reason="it swears again")
    assert (again.applied, again.recorded) == (True, True)
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(kills)) == 2


async def test_an_unreadable_kill_in_valkey_does_not_stop_the_others(switch, valkey, experiments):
    await valkey.hset(KILLED_KEY, "by-hand", "not JSON")
    await valkey.hset(KILLED_KEY, "answers", encode(Kill("key 1", "it swears", SystemClock().now())).decode())
    await switch.record_waiting()
    assert (await experiments.get("answers")).killed
    assert list(await valkey.hgetall(KILLED_KEY)) == [b"by-hand"]
    assert not (await switch.revive("answers", by="key 2", reason="mended")).killed


async def test_simultaneous_kills_are_recorded_and_announced_once(switch, engine):
    await asyncio.gather(*(switch.kill("answers", by=f"key {n}", reason="it swears") for n in range(4)))
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(kills)) == 1
    assert len(await announcements(engine)) == 1


async def test_a_kill_that_cannot_be_announced_is_not_recorded(switch, engine, valkey, monkeypatch):
    store = KillStore(engine, valkey)

    async def die(*_, **__):
        raise OSError("the connection is gone")

    monkeypatch.setattr(store, "_tell", die)
    clock = SystemClock()

    async def on_change(_: int) -> None: ...

    done = await KillSwitch(store, clock, on_change).kill("answers", by="key 1", reason="it swears")
    assert (done.applied, done.recorded) == (True, False)
    assert await announcements(engine) == []
    await switch.record_waiting()
    assert [one.type for one in await announcements(engine)] == ["experiment.killed"]
    assert (await announcements(engine))[0].created_at <= clock.now() + timedelta(seconds=1)


@pytest.mark.parametrize("reason", ["", "  ", "a\0b", "\ud800"])
async def test_a_kill_has_a_reason_that_can_be_kept(switch, reason):
    for act in (switch.kill, switch.revive):
        with pytest.raises(InvalidInput, match=r"reason|must say why"):
            await act("answers", by="key 1", reason=reason)
        with pytest.raises(NotFound):
            await act("no such thing", by="key 1", reason="why not")
