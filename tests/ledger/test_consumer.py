"""Consumers on real streams: one owner per shard, every acknowledged event once, whoever dies."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random

import pytest
from redis.asyncio import Redis

from app.core.clock import SystemClock
from app.core.postgres import create_engine
from app.core.stream import StreamAppender
from app.core.valkey import shard_key
from app.experiments.reward import Reward
from app.feedback.model import Source
from app.ledger import limits
from app.ledger.consumer import Marks, ShardConsumer
from app.ledger.lag import LedgerLag
from app.ledger.lease import Fenced
from app.ledger.log.batch import StreamEntry, stage
from app.ledger.loop import HorizonSweep
from app.ledger.store import LedgerStore
from app.ledger.stream import ShardStream
from tests.ledger.support import (
    T0_MS,
    Assigned,
    Model,
    Said,
    create_experiment,
    execute,
    exposures,
    moment,
    rows,
    signals,
    stored_totals,
)
from tests.support.polling import eventually

pytestmark = pytest.mark.anyio

REWARD = Reward(signals={"up": 1.0, "down": 0.0}, horizon_s=3_600)
SHARDS = 2


@pytest.fixture
async def appender(valkey_url: str) -> AsyncIterator[StreamAppender]:
    appender = StreamAppender(valkey_url, deadline_s=5)
    await appender.start()
    yield appender
    await appender.stop()


@pytest.fixture
def experiment_id(database_url: str) -> int:
    return create_experiment(database_url, "experiment", REWARD)


async def append(appender: StreamAppender, shard: int, entry: StreamEntry) -> None:
    await appender.append(shard, entry.kind, entry.n, entry.body)


@asynccontextmanager
async def running(*runs: Callable[[], object]) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.ensure_future(run()) for run in runs]  # type: ignore[arg-type]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def consumer(database_url: str, valkey: Redis, shard: int = 0, owner: str = "one") -> ShardConsumer:
    return ShardConsumer(
        shard,
        owner=owner,
        database_url=database_url,
        valkey=valkey,
        clock=SystemClock(),
        on_commit=lambda _: None,
    )


def some_assignments(experiment_id: int, n: int) -> list[Assigned]:
    return [
        Assigned(experiment_id, unit=number, number=number, at_ms=0, variant=number % 2)
        for number in range(n)
    ]


async def test_consumers_that_are_killed_at_random_neither_lose_nor_repeat(
    database_url: str, valkey: Redis, appender: StreamAppender, experiment_id: int
) -> None:
    random = Random(7)
    assigned = some_assignments(experiment_id, 300)
    said = [
        Said(
            one, experiment_id, random.choice(["up", "down"]), Source.EXPLICIT, random.choice([0.0, 1.0]), at
        )
        for one in assigned
        for at in random.sample(range(1, 100), 2)
    ]
    events: list[Assigned | Said] = [*assigned, *said]
    events += random.sample(events, len(events) // 3)
    random.shuffle(events)

    async def produce() -> None:
        for start in range(0, len(events), 5):
            taken = events[start : start + 5]
            if exposed := [one for one in taken if isinstance(one, Assigned)]:
                await append(appender, random.randrange(SHARDS), exposures(exposed))
            if spoken := [one for one in taken if isinstance(one, Said)]:
                await append(appender, random.randrange(SHARDS), signals(spoken))
            await asyncio.sleep(0.003)

    async def die_again_and_again(shard: int, owner: str) -> None:
        while True:
            async with running(consumer(database_url, valkey, shard, owner).run):
                await asyncio.sleep(random.uniform(0.05, 0.5))

    engine = create_engine(database_url)
    lag = LedgerLag(engine, valkey, shards=SHARDS)
    lives = [
        lambda s=shard, o=owner: die_again_and_again(s, o) for shard in range(SHARDS) for owner in ("a", "b")
    ]
    async with running(*lives):
        await produce()
    async with running(*(consumer(database_url, valkey, shard).run for shard in range(SHARDS))):

        async def caught_up() -> bool:
            return await lag.events() == 0

        await eventually(caught_up)
    await engine.dispose()
    assert stored_totals(database_url) == Model({experiment_id: REWARD}).totals(assigned, said, -1)


async def test_a_stalled_owner_is_refused(database_url: str, experiment_id: int) -> None:
    entry = exposures(some_assignments(experiment_id, 1))._replace(id="5-0")
    async with LedgerStore.open(database_url) as stalled, LedgerStore.open(database_url) as next_owner:
        old = await stalled.acquire(0, "stalled")
        assert old is not None
        assert await next_owner.acquire(0, "next") is None
        seen = await next_owner.renewal(0)
        await stalled.renew(old, moment(0))
        assert await next_owner.acquire(0, "next", stalled=seen) is None, "it has renewed since"
        new = await next_owner.acquire(0, "next", stalled=await next_owner.renewal(0))
        assert new is not None
        with pytest.raises(Fenced):
            await stalled.apply(old, stage([entry]), [entry], moment(0))
        with pytest.raises(Fenced):
            await stalled.renew(old, moment(0))
        assert rows(database_url, "SELECT * FROM assignments") == []
        await next_owner.apply(new, stage([entry]), [entry], moment(0))
    assert stored_totals(database_url)[experiment_id, 1, 0][0] == 1


async def test_an_owner_that_leaves_in_order_makes_room_at_once(
    database_url: str, valkey: Redis, experiment_id: int
) -> None:
    async with running(consumer(database_url, valkey, owner="first").run):
        await eventually(lambda: rows(database_url, "SELECT FROM stream_positions WHERE owner = 'first'"))
    assert rows(database_url, "SELECT owner FROM stream_positions") == [(None,)]


async def test_poison_goes_to_the_dead_letters_and_the_rest_is_applied(
    database_url: str, valkey: Redis, appender: StreamAppender, experiment_id: int
) -> None:
    one, two, three = some_assignments(experiment_id, 3)
    await append(appender, 0, exposures([one]))
    await appender.append(0, "x", 2, b"\xc1 not MessagePack")
    await appender.append(0, "from the future", 1, b"")
    await append(
        appender, 0, exposures([two])._replace(body=exposures([two]).body.replace(b"unit-1", b"unit\x00\x01"))
    )
    await valkey.xadd(shard_key(0, "events"), {"stray": "fields"})
    await append(appender, 0, exposures([three]))
    engine = create_engine(database_url)
    lag = LedgerLag(engine, valkey, shards=1)
    assert await lag.events() == 6
    async with running(consumer(database_url, valkey).run):

        async def caught_up() -> bool:
            return await lag.events() == 0

        await eventually(caught_up)
    await engine.dispose()
    assert len(rows(database_url, "SELECT FROM assignments")) == 2
    letters = rows(database_url, "SELECT body, error FROM dead_letters ORDER BY id")
    assert letters[0][0] == b"\xc1 not MessagePack"
    assert "from the future" in letters[1][1]
    assert "0x00" in letters[2][1]
    assert len(letters) == 4


async def test_the_stream_is_trimmed_behind_the_position_and_never_beyond(
    valkey: Redis, valkey_url: str
) -> None:
    stream = ShardStream(valkey, 0)
    assert await stream.advance("0-0", 0)
    ids = [await valkey.xadd(shard_key(0, "events"), {"k": "x", "n": 1, "b": ""}) for _ in range(5)]
    await valkey.set(shard_key(0, "appended"), 5)
    await stream.advance(ids[2].decode(), 3)
    await stream.advance(ids[1].decode(), 2)  # an owner that has been overtaken
    left = await stream.read("0-0")
    assert [entry.id for entry in left] == [one.decode() for one in ids[2:]]
    assert await stream.waiting(ids[2].decode(), 3) == 2


async def test_after_a_loss_of_valkeys_data_new_events_are_behind_the_position(
    database_url: str, valkey: Redis, appender: StreamAppender, experiment_id: int
) -> None:
    one, two = some_assignments(experiment_id, 2)
    position = f"{T0_MS * 2}-7"  # as of a clock that ran ahead
    async with LedgerStore.open(database_url) as store:
        lease = await store.acquire(0, "one")
        assert lease is not None
        entry = exposures([one])._replace(id=position)
        await store.apply(lease, stage([entry]), [entry], moment(0))
        await store.release(0, "one")
    await valkey.flushall()
    async with running(consumer(database_url, valkey).run):
        await eventually(lambda: valkey.exists(shard_key(0, "events")))
        await append(appender, 0, exposures([two]))
        await eventually(lambda: len(rows(database_url, "SELECT FROM assignments")) == 2)
    assert rows(database_url, "SELECT applied FROM stream_positions") == [(2,)]


async def test_events_that_came_between_a_loss_of_valkeys_data_and_the_worker_are_applied(
    database_url: str, valkey: Redis, appender: StreamAppender, experiment_id: int
) -> None:
    """The position is that of a clock that ran ahead: the new entries lie before it."""
    one, two, three = some_assignments(experiment_id, 3)
    position = f"{T0_MS * 2}-7"
    async with LedgerStore.open(database_url) as store:
        lease = await store.acquire(0, "one")
        assert lease is not None
        entry = exposures([one])._replace(id=position)
        await store.apply(lease, stage([entry]), [entry], moment(0))
        await store.release(0, "one")
    await append(appender, 0, exposures([two]))
    await append(appender, 0, exposures([one, three]))
    engine = create_engine(database_url)
    lag = LedgerLag(engine, valkey, shards=1)
    async with running(consumer(database_url, valkey).run):
        await eventually(lambda: len(rows(database_url, "SELECT FROM assignments")) == 3)

        async def caught_up() -> bool:
            return await lag.events() == 0

        await eventually(caught_up)
    await engine.dispose()


async def test_a_full_valkey_is_drained_all_the_same(
    database_url: str, valkey: Redis, appender: StreamAppender, experiment_id: int
) -> None:
    assigned = some_assignments(experiment_id, 3)
    await append(appender, 0, exposures(assigned))
    await valkey.set(shard_key(0, "appended"), 7)  # so that there is something to correct
    await valkey.config_set("maxmemory", 1)
    try:
        async with running(consumer(database_url, valkey).run):
            await eventually(lambda: len(rows(database_url, "SELECT FROM assignments")) == len(assigned))
            await eventually(lambda: rows(database_url, "SELECT applied FROM stream_positions") == [(3,)])
    finally:
        await valkey.config_set("maxmemory", 0)


async def test_watermarks_come_from_our_time_and_not_from_the_ids_of_valkey(
    database_url: str, valkey: Redis, experiment_id: int
) -> None:
    """Ids of a Valkey whose clock is an hour ahead, more of them than are read at once."""
    ahead_ms = SystemClock().now_ms() + 3_600_000
    for number in range(limits.LEDGER_READ_ENTRIES_MAX * 2):
        entry = exposures(some_assignments(experiment_id, 1))
        fields = {"k": entry.kind, "n": entry.n, "b": entry.body}
        await valkey.xadd(shard_key(0, "events"), fields, id=f"{ahead_ms}-{number}")
    async with running(consumer(database_url, valkey).run):
        await eventually(
            lambda: rows(database_url, "SELECT FROM stream_positions WHERE watermark IS NOT NULL")
        )
        await eventually(lambda: rows(database_url, "SELECT applied FROM stream_positions") == [(128,)])
    ((watermark,),) = rows(database_url, "SELECT watermark FROM stream_positions")
    assert watermark <= SystemClock().now()


async def test_marks_say_no_more_than_was_applied() -> None:
    marks = Marks()
    marks.add("5-1", moment(1))
    marks.add("5-10", moment(2))
    assert marks.waiting
    assert marks.reached("4-99") is None
    assert marks.reached("5-9") == moment(1)
    assert marks.reached("6-0") == moment(2)
    assert not marks.waiting


async def test_a_watermark_in_the_future_is_taken_back_and_nothing_is_resolved_early(
    database_url: str, valkey: Redis
) -> None:
    """As an earlier version left it after a clock was an hour ahead."""
    silent = create_experiment(database_url, "silent", Reward(horizon_s=600, silence=0.0))
    now = SystemClock().now()
    at_ms = SystemClock().now_ms() - T0_MS
    async with LedgerStore.open(database_url) as store:
        lease = await store.acquire(0, "one")
        assert lease is not None
        await store.renew(lease, now + timedelta(hours=1))
        execute(database_url, "UPDATE horizons SET swept_until = now() + interval '1 hour'")
        for number in range(2):
            entry = exposures([Assigned(silent, number, number, at_ms=at_ms, variant=0)])._replace(
                id=f"5-{number}"
            )
            lease, _ = await store.apply(lease, stage([entry]), [entry], None)
            await store.sweep()
        assert rows(database_url, "SELECT outcome FROM assignments") == [(0,), (0,)]
        ((watermark, swept),) = rows(
            database_url, "SELECT watermark, swept_until FROM stream_positions, horizons"
        )
        assert max(watermark, swept) <= SystemClock().now()
        execute(database_url, "UPDATE assignments SET deadline = now() - interval '1 second'")
        execute(database_url, "UPDATE horizons SET swept_until = now() - interval '1 minute'")
        await store.renew(lease, SystemClock().now())
        await store.sweep()
    assert rows(database_url, "SELECT outcome FROM assignments") == [(2,), (2,)]


async def test_a_shard_whose_owner_was_killed_is_free_at_once(database_url: str, experiment_id: int) -> None:
    async with LedgerStore.open(database_url) as next_owner:
        async with LedgerStore.open(database_url) as killed:
            assert await killed.acquire(0, "killed")
            assert await next_owner.acquire(0, "next") is None
        assert rows(database_url, "SELECT owner FROM stream_positions") == [("killed",)]
        await eventually(lambda: next_owner.acquire(0, "next"))


async def test_silence_is_resolved_only_up_to_what_all_shards_have_applied(
    database_url: str, valkey: Redis, appender: StreamAppender
) -> None:
    silent = create_experiment(database_url, "silent", Reward(horizon_s=0.5, silence=0.25))
    now_ms = SystemClock().now_ms() - T0_MS
    await append(appender, 0, exposures([Assigned(silent, unit=1, number=1, at_ms=now_ms, variant=0)]))
    horizons = HorizonSweep(database_url, lambda _: None)
    async with LedgerStore.open(database_url) as behind:
        lease = await behind.acquire(1, "behind")
        assert lease is not None
        async with running(consumer(database_url, valkey).run, horizons.run):
            await eventually(
                lambda: rows(
                    database_url,
                    "SELECT FROM stream_positions JOIN assignments ON watermark > deadline WHERE shard = 0",
                )
            )
            assert rows(database_url, "SELECT outcome FROM assignments") == [(0,)]
            await behind.renew(lease, SystemClock().now())
            await eventually(lambda: rows(database_url, "SELECT outcome FROM assignments") == [(2,)])
    assert stored_totals(database_url) == {(silent, 1, 0): (1, 1, 0, 250_000_000, 250_000_000**2)}


async def test_the_lag_is_never_zero_while_an_entry_waits(database_url: str, valkey: Redis) -> None:
    engine = create_engine(database_url)
    lag = LedgerLag(engine, valkey, shards=SHARDS)
    assert await lag.events() == 0
    await valkey.xadd(shard_key(1, "events"), {"k": "x", "n": 3, "b": ""})
    assert await lag.events() == 1  # its count was lost
    await valkey.set(shard_key(1, "appended"), 3)
    assert await lag.events() == 3
    await engine.dispose()


async def test_the_age_of_the_watermark_is_that_of_the_shard_furthest_behind(
    database_url: str, valkey: Redis
) -> None:
    engine = create_engine(database_url)
    lag = LedgerLag(engine, valkey, shards=SHARDS)
    assert await lag.watermark_age_s() == 0.0
    async with LedgerStore.open(database_url) as store:
        for shard, behind_s in enumerate((60, 7_200)):
            lease = await store.acquire(shard, "one")
            assert lease is not None
            await store.renew(lease, SystemClock().now() - timedelta(seconds=behind_s))
    assert 7_199 < await lag.watermark_age_s() < 7_260
    await engine.dispose()
