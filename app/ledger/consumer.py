"""The ledger's consumers: one owner per shard at a time applies its entries in order."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from time import monotonic, perf_counter
from typing import Final

import structlog

from app.core.clock import Clock
from app.core.loops import stop_if_cancelled
from app.core.outages import POSTGRES_ERRORS
from app.core.telemetry import LEDGER_BATCH_SECONDS, LEDGER_EVENTS
from app.core.valkey import Valkey
from app.ledger import limits
from app.ledger.lease import Fenced, Lease, Renewal
from app.ledger.log.batch import StreamEntry, UndecodableEntry
from app.ledger.store import POISON, LedgerStore
from app.ledger.stream import ShardStream

OnCommit = Callable[[Sequence[int]], None]
"""Called right after a commit with the ids of the experiments whose totals it changed."""

_LOG: Final = structlog.get_logger(__name__)


class ShardConsumer:
    """Applies one shard's events while it holds the lease, and waits for the lease otherwise.

    `owner` is the unique name of this process. `store` takes the entries into PostgreSQL.
    """

    def __init__(
        self,
        shard: int,
        *,
        owner: str,
        database_url: str,
        valkey: Valkey,
        clock: Clock,
        on_commit: OnCommit,
        store: type[LedgerStore] = LedgerStore,
    ) -> None:
        self._shard = shard
        self._owner = owner
        self._database_url = database_url
        self._stream = ShardStream(valkey, shard)
        self._clock = clock
        self._on_commit = on_commit
        self._store = store
        self._renewal: Renewal | None = None  # the owner's last sign of life
        self._renewed_at = monotonic()  # when this process first saw it

    async def run(self) -> None:
        """Consume until an engine fails; the next run starts at the stored position."""
        async with self._store.open(self._database_url, self._clock) as store:
            try:
                while True:
                    stop_if_cancelled()
                    await self._consume_or_wait(store)
            finally:
                with suppress(*POSTGRES_ERRORS):
                    await store.release(self._shard, self._owner)

    async def _consume_or_wait(self, store: LedgerStore) -> None:
        """Consume while this process owns the shard; wait a moment if another process does."""
        renewal = await store.renewal(self._shard)
        if renewal != self._renewal:
            self._renewal, self._renewed_at = renewal, monotonic()
        stalled = renewal if monotonic() - self._renewed_at >= limits.LEASE_S else None
        lease = await store.acquire(self._shard, self._owner, stalled)
        if lease is None:
            await asyncio.sleep(limits.LEASE_S / 4)
            return
        try:
            await self._consume(store, lease)
        except Fenced as error:
            _LOG.warning("ledger_fenced", error=str(error))

    async def _consume(self, store: LedgerStore, lease: Lease) -> None:
        marks = Marks()
        lease = await self._advance(store, lease)
        while True:
            stop_if_cancelled()
            began = self._clock.now()
            entries = await self._stream.read(lease.position, wait_ms=limits.LEDGER_IDLE_MS)
            if not entries:
                await store.renew(lease, began)
            elif len(entries) < limits.LEDGER_READ_ENTRIES_MAX:
                marks.add(entries[-1].id, began)
                await asyncio.sleep(limits.LEDGER_BATCH_WAIT_MS / 1_000)  # let a batch gather
                entries += await self._stream.read(entries[-1].id)
            elif not marks.waiting:
                began = self._clock.now()
                marks.add(await self._stream.last_id(), began)
            for batch in _batches(entries):
                lease = await self._apply(store, lease, batch, marks)
            lease = await self._advance(store, lease)

    async def _advance(self, store: LedgerStore, lease: Lease) -> Lease:
        """Drop applied entries from the stream. If Valkey lost its data, go back to the stream's beginning.

        The log drops what was applied before.
        """
        if await self._stream.advance(lease.position, lease.applied):
            return lease
        _LOG.warning("stream_begins_anew", shard=self._shard, position=lease.position)
        rewound = lease._replace(position="0-0", applied=0)
        await store.renew(rewound, None)
        return rewound

    async def _apply(
        self, store: LedgerStore, lease: Lease, entries: Sequence[StreamEntry], marks: "Marks"
    ) -> Lease:
        """Apply entries in one transaction; if that fails, halve them until the failing entry is alone."""
        for _ in range(limits.LEDGER_ENTRY_RETRIES_MAX):
            try:
                return await self._commit(store, lease, entries, marks.reached(entries[-1].id))
            except (UndecodableEntry, *POISON) as error:
                _LOG.warning("ledger_batch_failed", first=entries[0].id, n=len(entries), error=str(error))
                if len(entries) > 1:
                    middle = len(entries) // 2
                    lease = await self._apply(store, lease, entries[:middle], marks)
                    return await self._apply(store, lease, entries[middle:], marks)
        return await self._sift(store, lease, entries[0], marks.reached(entries[0].id))

    async def _sift(
        self, store: LedgerStore, lease: Lease, entry: StreamEntry, watermark: datetime | None
    ) -> Lease:
        """Apply the events of an entry one by one; keep the entry as a dead letter if any event fails.

        The process may die in between: the log drops events that were applied before.
        """
        events, errors = store.apart(entry)
        errors |= await self._apply_some(store, lease, events)
        if not errors:
            await store.renew(lease.after([entry]), watermark)
            return lease.after([entry])
        LEDGER_EVENTS.labels("dead_letter").inc(max(entry.n, 1) if not events else len(errors))
        return await store.bury(lease, entry, _summary(errors), watermark)

    async def _apply_some(
        self, store: LedgerStore, lease: Lease, events: Sequence[tuple[int, StreamEntry]]
    ) -> dict[int, str]:
        """Apply numbered events without moving the position. Return the errors of those that fail."""
        try:
            await self._commit(store, lease, [event for _, event in events], None, moves=False)
        except (UndecodableEntry, *POISON) as error:
            if len(events) == 1:
                return {events[0][0]: str(error)}
            middle = len(events) // 2
            errors = await self._apply_some(store, lease, events[:middle])
            return errors | await self._apply_some(store, lease, events[middle:])
        return {}

    async def _commit(
        self,
        store: LedgerStore,
        lease: Lease,
        entries: Sequence[StreamEntry],
        watermark: datetime | None,
        *,
        moves: bool = True,
    ) -> Lease:
        if not entries:
            return lease
        began = perf_counter()
        lease, changed = await store.take(lease, entries, watermark, moves=moves)
        LEDGER_BATCH_SECONDS.observe(perf_counter() - began)
        if changed:
            self._on_commit(changed)
        return lease


class Marks:
    """Marks (entry, time): everything acknowledged before the time is in the stream up to the entry.

    The times are the shared time, read before the end of the stream is looked up. The times in the ids
    of entries are of no use here: they are from Valkey's clock, which may jump.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[tuple[int, int], datetime]] = deque()

    @property
    def waiting(self) -> bool:
        """Whether the ledger has not reached the last mark yet."""
        return bool(self._marks)

    def add(self, last_id: str, before: datetime) -> None:
        """Add a mark: everything acknowledged `before` is in the stream up to the entry `last_id`."""
        self._marks.append((_order(last_id), before))

    def reached(self, position: str) -> datetime | None:
        """Remove the marks up to `position`, and return the latest time; None if there are none."""
        reached = None
        while self._marks and self._marks[0][0] <= _order(position):
            reached = self._marks.popleft()[1]
        return reached


def _order(entry_id: str) -> tuple[int, int]:
    """Return the id of an entry as numbers, which compare in the order of the stream."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


def _summary(errors: Mapping[int, str]) -> str:
    """Summarize why events of an entry were not applied."""
    named = sorted(errors.items())[: limits.DEAD_LETTER_EVENTS_NAMED_MAX]
    return f"{len(errors)} not applied: " + "; ".join(f"event {number}: {reason}" for number, reason in named)


def _batches(entries: Sequence[StreamEntry]) -> Iterator[list[StreamEntry]]:
    """Yield batches of entries in order: at most `LEDGER_BATCH_EVENTS_MAX` events, or one entry."""
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
