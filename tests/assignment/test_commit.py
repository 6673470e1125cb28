"""The group commit of exposures: what is answered as recorded is on the stream, whatever happens."""

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.assignment import limits
from app.assignment.commit import ExposureCommit
from app.core.engines import ValkeyServer
from app.core.engines.folder import DataFolder
from app.core.stream import StreamAppender
from app.core.valkey import create_client, shard_key
from tests.assignment.conftest import SHARDS, recorded
from tests.support.polling import eventually

pytestmark = pytest.mark.anyio


def row(number: int) -> tuple[bytes, str, dict[str, str] | None]:
    return number.to_bytes(48, "big"), f"unit-{number}", None


@pytest.fixture
async def own_valkey() -> AsyncIterator[ValkeyServer]:
    """A Valkey that a test may stop and kill."""
    with tempfile.TemporaryDirectory(prefix="wald-commit-") as path:
        folder = DataFolder(Path(path) / "data")
        assert folder.try_lock()
        valkey = ValkeyServer(folder)
        await valkey.start()
        yield valkey
        await valkey.stop()
        folder.unlock()


@pytest.fixture
async def appender(valkey_url: str) -> AsyncIterator[StreamAppender]:
    appender = StreamAppender(valkey_url, deadline_s=limits.EXPOSURE_DEADLINE_S)
    await appender.start()
    yield appender
    await appender.stop()


async def test_waiting_exposures_become_one_stream_entry(valkey_url: str, appender: StreamAppender):
    commit = ExposureCommit(appender, shards=SHARDS)
    answers = [commit.add(row(number)) for number in range(500)]
    assert all([await answer for answer in answers])
    async with create_client(valkey_url) as valkey:
        assert sum([await valkey.xlen(shard_key(shard, "events")) for shard in range(SHARDS)]) == 1
    assert sorted(one.unit for one in await recorded(valkey_url)) == sorted(f"unit-{n}" for n in range(500))


async def test_flushes_are_bounded_and_go_round_the_shards(valkey_url: str, appender: StreamAppender):
    commit = ExposureCommit(appender, shards=SHARDS)
    n = 2 * limits.EXPOSURES_FLUSH_MAX + 1
    answers = [commit.add(row(number)) for number in range(n)]
    assert all([await answer for answer in answers])
    assert len(await recorded(valkey_url)) == n
    async with create_client(valkey_url) as valkey:
        assert [await valkey.xlen(shard_key(shard, "events")) for shard in range(SHARDS)] == [1, 2]


async def test_exposures_beyond_the_bound_are_given_up_at_once(valkey_url: str, appender: StreamAppender):
    commit = ExposureCommit(appender, shards=SHARDS)
    answers = [commit.add(row(number)) for number in range(limits.EXPOSURES_PENDING_MAX + 3)]
    assert [answer.done() for answer in answers[-4:]] == [False, True, True, True]
    assert [await answer for answer in answers].count(False) == commit.unrecorded == 3
    assert len(await recorded(valkey_url)) == limits.EXPOSURES_PENDING_MAX


async def test_a_cancelled_waiter_does_not_cancel_others(valkey_url: str, appender: StreamAppender):
    commit = ExposureCommit(appender, shards=SHARDS)

    async def wait(number: int) -> bool:
        return await commit.add(row(number))

    tasks = [asyncio.create_task(wait(number)) for number in range(10)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for number, result in enumerate(results) if number != 3] == [True] * 9
    assert isinstance(results[3], asyncio.CancelledError)
    assert len(await recorded(valkey_url)) == 10


async def test_a_row_that_cannot_be_written_does_not_stop_the_next(valkey_url: str, appender: StreamAppender):
    commit = ExposureCommit(appender, shards=SHARDS)
    assert not await commit.add((bytes(48), "unit", {"too large": 2**70}))
    assert await commit.add(row(1))


async def test_a_script_that_valkey_forgot_is_sent_again(valkey_url: str, appender: StreamAppender):
    commit = ExposureCommit(appender, shards=SHARDS)
    async with create_client(valkey_url) as valkey:
        await valkey.script_flush()
    assert await commit.add(row(1))
    assert len(await recorded(valkey_url)) == 1


async def test_draining_waits_for_everything(valkey_url: str, appender: StreamAppender):
    commit = ExposureCommit(appender, shards=SHARDS)
    for number in range(3 * limits.EXPOSURES_FLUSH_MAX):
        commit.add(row(number))
    await commit.drain()
    assert len(await recorded(valkey_url)) == 3 * limits.EXPOSURES_FLUSH_MAX


async def test_a_full_valkey_refuses_and_nothing_waits(valkey_url: str, appender: StreamAppender):
    commit = ExposureCommit(appender, shards=SHARDS)
    async with create_client(valkey_url) as valkey:
        before = (await valkey.config_get("maxmemory"))["maxmemory"]
        await valkey.config_set("maxmemory", 1)
        try:
            assert not await commit.add(row(1))
        finally:
            await valkey.config_set("maxmemory", before)
    assert appender.connected
    assert await commit.add(row(2))
    assert [one.unit for one in await recorded(valkey_url)] == ["unit-2"]


async def test_a_valkey_that_hangs_costs_one_deadline_and_then_nothing(own_valkey: ValkeyServer):
    """Later answers fail at once, late replies reach nobody, and it recovers by itself."""
    appender = StreamAppender(own_valkey.url, deadline_s=0.1)
    await appender.start()
    commit = ExposureCommit(appender, shards=SHARDS)
    assert own_valkey.process is not None
    assert await commit.add(row(0))
    own_valkey.process.send(signal.SIGSTOP)
    try:
        in_flight, behind = commit.add(row(1)), commit.add(row(2))
        assert not await in_flight
        assert not await behind
        assert not appender.connected
        later = [commit.add(row(number)) for number in range(3, 100)]
        assert all(answer.done() for answer in later)
    finally:
        own_valkey.process.send(signal.SIGCONT)
    await eventually(lambda: appender.connected)
    answers = [await commit.add(row(number)) for number in range(100, 120)]
    assert all(answers)
    units = {one.unit for one in await recorded(own_valkey.url)}
    assert {"unit-0", *(f"unit-{number}" for number in range(100, 120))} <= units
    assert not units & {f"unit-{number}" for number in range(3, 100)}
    await appender.stop()


@pytest.mark.slow
async def test_nothing_answered_as_recorded_is_lost_when_valkey_is_killed(own_valkey: ValkeyServer):
    appender = StreamAppender(own_valkey.url, deadline_s=limits.EXPOSURE_DEADLINE_S)
    await appender.start()
    commit = ExposureCommit(appender, shards=SHARDS)
    said_recorded: set[str] = set()
    stopped = asyncio.Event()

    async def client(first: int) -> None:
        number = first
        while not stopped.is_set():
            if await commit.add(row(number)):
                said_recorded.add(f"unit-{number}")
            else:
                await asyncio.sleep(0.005)
            number += 20

    clients = [asyncio.create_task(client(first)) for first in range(20)]
    for _ in range(3):
        before = len(said_recorded)
        await eventually(lambda: len(said_recorded) > before + 200)  # noqa: B023 - awaited within the round
        assert own_valkey.process is not None
        own_valkey.process.send(signal.SIGKILL)
        await own_valkey.process.wait()
        await eventually(lambda: not appender.connected)
        await own_valkey.start()
    before = len(said_recorded)
    await eventually(lambda: len(said_recorded) > before + 200)
    stopped.set()
    await asyncio.gather(*clients)
    found = [one.unit for one in await recorded(own_valkey.url)]
    assert said_recorded <= set(found)
    assert len(found) == len(set(found))
    await appender.stop()
