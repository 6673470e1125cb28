"""A server's assignment parts on a real Valkey."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import NamedTuple

import pytest

from app.assignment import limits
from app.assignment.commit import ExposureCommit
from app.assignment.exposure import Exposure, decode
from app.assignment.service import Assigner
from app.assignment.snapshot_keeper import SnapshotKeeper
from app.assignment.store import StickyStore
from app.core.clock import SystemClock
from app.core.settings import Durability
from app.core.stream import StreamAppender
from app.core.valkey import create_client, shard_key

SHARDS = 2


class Server(NamedTuple):
    """The parts of one server process."""

    keeper: SnapshotKeeper
    appender: StreamAppender
    commit: ExposureCommit
    assigner: Assigner


@asynccontextmanager
async def running_server(
    valkey_url: str, *, durability: Durability = Durability.DURABLE, seed: int = 1
) -> AsyncIterator[Server]:
    clock = SystemClock()
    keeper = SnapshotKeeper(valkey_url, clock)
    await keeper.start()
    appender = StreamAppender(valkey_url, deadline_s=limits.EXPOSURE_DEADLINE_S)
    await appender.start()
    commit = ExposureCommit(appender, shards=SHARDS)
    assigner = Assigner(
        keeper, commit, StickyStore(appender), clock=clock, rng=Random(seed), durability=durability
    )
    try:
        yield Server(keeper, appender, commit, assigner)
    finally:
        await commit.drain()
        await appender.stop()
        await keeper.stop()


@pytest.fixture
def start_server() -> Callable[..., object]:
    return running_server


async def recorded(valkey_url: str) -> list[Exposure]:
    """Return all exposures on the streams, in order, and check the counters."""
    found: list[Exposure] = []
    async with create_client(valkey_url) as valkey:
        for shard in range(SHARDS):
            entries = await valkey.xrange(shard_key(shard, "events"))
            exposures = [one for _, fields in entries for one in decode(fields[b"b"])]
            assert all(fields[b"k"] == b"x" for _, fields in entries)
            assert int(await valkey.get(shard_key(shard, "appended")) or 0) == len(exposures)
            found += exposures
    return found
