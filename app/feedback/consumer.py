"""The ledger's consumers: one owner per shard at a time applies its entries in order."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from time import perf_counter
from typing import Final

import psycopg
import structlog
from redis.asyncio import Redis

from app.core import limits
from app.core.clock import Clock
from app.core.loops import Loop, stop_if_cancelled
from app.core.telemetry import LEDGER_BATCH_SECONDS, LEDGER_EVENTS
from app.feedback.batch import StreamEntry, UndecodableEntry, stage
from app.feedback.loop import Forgotten, Horizons, OnCommit
from app.feedback.store import POISON, Fenced, Lease, LedgerStore
from app.feedback.stream import ShardStream

_LOG: Final = structlog.get_logger(__name__)


class ShardConsumer:
    """Takes one shard's events into log and totals while it holds the lease, and waits for it otherwise.

    `owner` is the name of this process, different from that of every other.
    """

    def __init__(
        self, shard: int, *, owner: str, database_url: str, valkey: Redis, clock: Clock, on_commit: OnCommit
    ) -> None:
        self._shard = shard
        self._owner = owner
        self._database_url = database_url
        self._stream = ShardStream(valkey, shard)
        self._clock = clock
        self._on_commit = on_commit

    async def run(self) -> None:
        """Until an engine fails; the next run starts at the stored position."""
        async with LedgerStore.open(self._database_url) as store:
            try:
                while True:
                    stop_if_cancelled()
                    await self._own(store)
            finally:
                with suppress(psycopg.Error):
                    await store.release(self._shard, self._owner)

    async def _own(self, store: LedgerStore) -> None:
        """Consume for as long as the shard is ours; wait a while if it is somebody else's."""
        lease = await store.acquire(self._shard, self._owner)
        if lease is None:
            await asyncio.sleep(limits.LEASE_S / 4)
            return
        try:
            await self._consume(store, lease)
        except Fenced as error:
            _LOG.warning("ledger_fenced", error=str(error))

    async def _consume(self, store: LedgerStore, lease: Lease) -> None:
        await self._stream.advance(lease.position, lease.applied)
        while True:
            stop_if_cancelled()
            began = self._clock.now()
            entries = await self._stream.read(lease.position, wait_ms=limits.LEDGER_IDLE_MS)
            if not entries:
                await store.renew(lease, began)
            elif len(entries) < limits.LEDGER_READ_ENTRIES_MAX:
                await asyncio.sleep(limits.LEDGER_BATCH_WAIT_MS / 1_000)  # a batch gathers
                entries += await self._stream.read(entries[-1].id)
            for batch in _batches(entries):
                lease = await self._apply(store, lease, batch)
            await self._stream.advance(lease.position, lease.applied)

    async def _apply(self, store: LedgerStore, lease: Lease, entries: Sequence[StreamEntry]) -> Lease:
        """Apply entries in one transaction; halve them until what cannot be applied stands alone."""
        for attempts_left in reversed(range(limits.LEDGER_ENTRY_RETRIES_MAX)):
            try:
                return await self._commit(store, lease, entries)
            except (UndecodableEntry, *POISON) as error:
                _LOG.warning("ledger_batch_failed", first=entries[0].id, n=len(entries), error=str(error))
                if len(entries) > 1:
                    middle = len(entries) // 2
                    lease = await self._apply(store, lease, entries[:middle])
                    return await self._apply(store, lease, entries[middle:])
                if not attempts_left:
                    lease = await store.bury(lease, entries[0], str(error), _time(entries[0]))
                    LEDGER_EVENTS.labels("dead_letter").inc(entries[0].n)
        return lease

    async def _commit(self, store: LedgerStore, lease: Lease, entries: Sequence[StreamEntry]) -> Lease:
        began = perf_counter()
        lease, changed = await store.apply(lease, stage(entries), entries, _time(entries[-1]))
        LEDGER_BATCH_SECONDS.observe(perf_counter() - began)
        if changed:
            self._on_commit(changed)
        return lease


def _batches(entries: Sequence[StreamEntry]) -> Iterator[list[StreamEntry]]:
    """Entries in order, cut so that a batch stays within `LEDGER_BATCH_EVENTS_MAX` or is a single entry."""
    batch: list[StreamEntry] = []
    n = 0
    for entry in entries:
        if batch and n + entry.n > limits.LEDGER_BATCH_EVENTS_MAX:
            yield batch
            batch, n = [], 0
        batch.append(entry)
        n += entry.n
    if batch:
        yield batch


def _time(entry: StreamEntry) -> datetime:
    """When Valkey took the entry: all that was acknowledged earlier stands before it."""
    return datetime.fromtimestamp(int(entry.id.partition("-")[0]) / 1_000, UTC)


def ledger_loops(
    *, shards: int, owner: str, database_url: str, valkey: Redis, clock: Clock, on_commit: OnCommit
) -> list[Loop]:
    """All that keeps the ledger of a worker going: consumers of shards, the horizons, and forgetting."""
    consumers = [
        ShardConsumer(
            shard, owner=owner, database_url=database_url, valkey=valkey, clock=clock, on_commit=on_commit
        )
        for shard in range(shards)
    ]
    return [
        *(Loop(f"ledger shard {shard}", consumer.run) for shard, consumer in enumerate(consumers)),
        Loop("horizons", Horizons(database_url, on_commit).run),
        Loop("forgotten", Forgotten(database_url).run, pause_s=limits.FORGOTTEN_INTERVAL_S),
    ]
