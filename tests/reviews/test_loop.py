"""The worker's loops: silent leases end by the worker's own counter, and labels become signals."""

from types import SimpleNamespace

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.stream import StreamAppender
from app.core.valkey import shard_key
from app.feedback.commit import SignalsCommit
from app.feedback.entry import decode
from app.reviews.loop import ReviewLoops
from app.reviews.model import Answer
from app.reviews.signal_sender import SignalSender
from app.reviews.signal_store import SignalStore
from tests.reviews.conftest import KEY, Reviewed

pytestmark = pytest.mark.anyio


@pytest.fixture
async def counter() -> SimpleNamespace:
    return SimpleNamespace(s=1_000.0)


@pytest.fixture
async def loops(reviewed: Reviewed, engine: AsyncEngine, valkey_url: str, counter: SimpleNamespace):
    appender = StreamAppender(valkey_url, deadline_s=5)
    await appender.start()
    sender = SignalSender(SignalStore(engine), SignalsCommit([appender], shards=1), reviewed.clock)
    stores = (reviewed.sample, reviewed.claims, reviewed.reading)
    yield ReviewLoops(stores, sender, reviewed.clock, lambda: counter.s)
    await appender.stop()


async def test_a_silent_lease_ends_and_one_with_a_sign_of_life_stays(
    reviewed: Reviewed, loops: ReviewLoops, counter: SimpleNamespace
):
    await reviewed.put(rate=1.0, lease_s=60)
    await reviewed.respond(2)
    await loops.draw()
    for reviewer in ("key:1", "key:2"):
        await reviewed.service.claim(reviewer)
    for elapsed in (0, 59):
        counter.s = 1_000 + elapsed
        await loops.end_leases()
    await reviewed.service.claim("key:2")
    counter.s = 1_060
    await loops.end_leases()
    assert [lease.reviewer for lease in await reviewed.claims.active_leases()] == ["key:2"]
    assert await reviewed.service.claim("key:3") is not None


async def test_a_worker_that_starts_gives_a_lease_its_whole_time_again(
    reviewed: Reviewed, loops: ReviewLoops, counter: SimpleNamespace
):
    await reviewed.put(rate=1.0, lease_s=60)
    await reviewed.respond()
    await loops.draw()
    await reviewed.service.claim("key:1")
    reviewed.clock.forward(10**8)
    await loops.end_leases()
    assert len(await reviewed.claims.active_leases()) == 1
    counter.s += 60
    await loops.end_leases()
    assert await reviewed.claims.active_leases() == []


async def test_labels_of_the_sample_become_signals_and_corrections_replace_them(
    reviewed: Reviewed, loops: ReviewLoops, valkey: Redis, engine: AsyncEngine
):
    await reviewed.put(rate=1.0, reviewers=2)
    await reviewed.respond()
    await loops.draw()
    for reviewer, label in (("key:1", 3), ("key:2", 2)):
        shown = await reviewed.service.claim(reviewer)
        await reviewed.service.answer(reviewer, shown.item, shown.lease, Answer(label=label))
    assert await sent(valkey, loops) == [("review", 3, 0.75)]
    assert await sent(valkey, loops) == []
    await reviewed.service.correct("key:1", shown.item, Answer(label=1))
    assert await sent(valkey, loops) == [("review", 3, 0.25)]


async def test_answers_that_come_while_a_signal_is_sent_stay_due(reviewed: Reviewed, loops: ReviewLoops):
    await reviewed.put(rate=1.0)
    await reviewed.respond()
    await loops.draw()
    shown = await reviewed.service.claim("key:1")
    await reviewed.service.answer("key:1", shown.item, shown.lease, Answer(label=3))
    store = loops._sender._store
    due = await store.due()
    await reviewed.service.correct("key:1", shown.item, Answer(label=1))
    await store.mark_sent(due)
    assert [signal.score for signal in await store.due()] == [0.0]


async def test_skips_and_labels_outside_of_the_sample_send_nothing(
    reviewed: Reviewed, loops: ReviewLoops, valkey: Redis, engine: AsyncEngine
):
    await reviewed.put(rate=1.0)
    await reviewed.respond()
    await loops.draw()
    shown = await reviewed.service.claim("key:1")
    await reviewed.service.answer("key:1", shown.item, shown.lease, Answer(reason="not my language"))
    assert await sent(valkey, loops) == []
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE review_items SET queue = 'disagreement', inclusion_probability = NULL")
        )
    shown = await reviewed.service.claim("key:2")
    await reviewed.service.answer("key:2", shown.item, shown.lease, Answer(label=3))
    assert await sent(valkey, loops) == []


async def test_an_experiment_that_cannot_be_drawn_does_not_stop_others(
    reviewed: Reviewed, loops: ReviewLoops, engine: AsyncEngine
):
    await reviewed.put(rate=1.0)
    await reviewed.respond()
    async with engine.begin() as connection:
        await connection.execute(text('UPDATE review_settings SET labels = \'{"x": "y"}\''))
    await loops.draw()
    assert list(loops.errors) == [f"reviews of experiment {reviewed.experiment.id}"]
    async with engine.begin() as connection:
        await connection.execute(text('UPDATE review_settings SET labels = \'{"1": "a", "2": "b"}\''))
    await loops.draw()
    assert loops.errors == {}
    assert (await reviewed.service.workload("key:1", KEY))[0].open == 1


async def sent(valkey: Redis, loops: ReviewLoops) -> list[tuple[str, int, float]]:
    """Send what is due; the signals that it appended: name, source and value."""
    await valkey.delete(shard_key(0, "events"))
    await loops.send_signals()
    signals: list[tuple[str, int, float]] = []
    for _, fields in await valkey.xrange(shard_key(0, "events")):
        entry = decode(fields[b"b"])
        values = memoryview(entry.values).cast("d").tolist()
        signals += list(zip(entry.signals, entry.sources, values, strict=True))
    return signals
