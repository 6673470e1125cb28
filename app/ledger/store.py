"""The ledger's connection to PostgreSQL: log, totals and stream position change together, or not at all."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, Self, TypeVar

from psycopg import AsyncConnection, AsyncCursor, DataError, IntegrityError
from psycopg.errors import DeadlockDetected
from psycopg.sql import SQL, Identifier

from app.core.clock import Clock, SystemClock
from app.core.postgres import connect
from app.core.telemetry import LEDGER_EVENTS
from app.ledger import lease as leases
from app.ledger import limits
from app.ledger.lease import Lease, Renewal, lock_position, store_position
from app.ledger.log.batch import Batch, StreamEntry, apart, stage
from app.ledger.scope import lock_layouts
from app.ledger.session import prepare
from app.ledger.signals.tally import SignalTally
from app.ledger.sweep import sweep
from app.ledger.transaction import apply

_T = TypeVar("_T")

POISON: Final = (
    DataError,
    IntegrityError,
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
    RecursionError,
)
"""What PostgreSQL or our arithmetic raises because of the events; other errors are about an engine."""


class LedgerStore:
    """A connection that runs the ledger's transactions. Every method is one transaction."""

    def __init__(self, connection: AsyncConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def open(cls, database_url: str, clock: Clock | None = None) -> AsyncIterator[Self]:
        """Connect and prepare the session. `clock` is the time that all processes share."""
        async with await connect(database_url) as connection:
            await prepare(connection)
            yield cls(connection, clock or SystemClock())

    async def acquire(self, shard: int, owner: str, stalled: Renewal | None = None) -> Lease | None:
        """Take a shard whose owner's session has ended, or whose owner has not renewed since `stalled`.

        None: another process holds it. The lease lasts as long as this session, or until another process has
        waited `LEASE_S` for a renewal.
        """
        return await leases.acquire(self._connection, shard, owner, now=self._clock.now(), stalled=stalled)

    async def renewal(self, shard: int) -> Renewal | None:
        """Read the last sign of life of the shard's owner; None if the shard never had an owner."""
        return await leases.read_renewal(self._connection, shard)

    async def release(self, shard: int, owner: str) -> None:
        """Give the shard up, so that the next owner need not wait."""
        await leases.release(self._connection, shard, owner)

    async def renew(self, lease: Lease, watermark: datetime | None) -> None:
        """Store the lease's position and renew it: all entries before `watermark` are in the log.

        Raises Fenced.
        """
        async with self._transaction() as cursor:
            await lock_position(cursor, lease)
            await store_position(cursor, lease, watermark, now=self._clock.now())

    @staticmethod
    def apart(entry: StreamEntry) -> tuple[list[tuple[int, StreamEntry]], dict[int, str]]:
        """Split an entry into entries of one event, and the errors of unreadable ones."""
        return apart(entry)

    async def take(
        self, lease: Lease, entries: Sequence[StreamEntry], watermark: datetime | None, *, moves: bool
    ) -> tuple[Lease, list[int]]:
        """Apply entries. `moves`: the position moves behind them. Raises Fenced, UndecodableEntry.

        Return the lease at its new position and the experiments whose totals changed.
        """
        return await self.apply(lease, stage(entries), entries if moves else (), watermark)

    async def apply(
        self, lease: Lease, batch: Batch, entries: Sequence[StreamEntry], watermark: datetime | None
    ) -> tuple[Lease, list[int]]:
        """Take `batch`, the staged `entries`, into log and totals: see `transaction.apply`.

        Return the lease at its new position and the experiments whose totals changed. Raises Fenced.
        """

        async def work(cursor: AsyncCursor) -> tuple[Lease, list[int], SignalTally]:
            return await apply(cursor, lease, batch, entries, watermark, now=self._clock.now())

        moved, changed, tally = await self.transact(work)
        count_events(tally, sum(entry.n for entry in entries))
        return moved, changed

    async def bury(self, lease: Lease, entry: StreamEntry, error: str, watermark: datetime | None) -> Lease:
        """Keep an entry that cannot be applied as a dead letter, and move behind it. Raises Fenced."""
        moved = lease.after([entry])
        async with self._transaction() as cursor:
            await lock_position(cursor, lease)
            await cursor.execute(
                "INSERT INTO dead_letters (shard, stream_id, body, error) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (shard, stream_id) DO NOTHING",
                (lease.shard, entry.id, entry.body, error[: limits.DEAD_LETTER_ERROR_LENGTH_MAX]),
            )
            await store_position(cursor, moved, watermark, now=self._clock.now())
        return moved

    async def sweep(self) -> tuple[int, list[int]]:
        """Resolve a bounded number of assignments whose horizon passed in silence: see `sweep.sweep`."""

        async def work(cursor: AsyncCursor) -> tuple[int, list[int]]:
            return await sweep(cursor, now=self._clock.now())

        return await self.transact(work)

    def now(self) -> datetime:
        """Return the time that all processes share."""
        return self._clock.now()

    async def transact(self, work: Callable[[AsyncCursor], Awaitable[_T]]) -> _T:
        """Run `work` as one transaction, and again if PostgreSQL ended it to resolve a deadlock."""
        for attempts_left in reversed(range(limits.LEDGER_DEADLOCKS_MAX)):
            try:
                async with self._transaction() as cursor:
                    return await work(cursor)
            except DeadlockDetected:
                if not attempts_left:
                    raise
        raise AssertionError("the last attempt returns or raises")

    @asynccontextmanager
    async def scanning(self) -> AsyncIterator[AsyncCursor]:
        """Open a transaction that may read a whole log."""
        async with self._transaction() as cursor:
            await cursor.execute("SET LOCAL statement_timeout = 0")
            for method in ("hashjoin", "mergejoin", "seqscan"):
                await cursor.execute(f"SET LOCAL enable_{method} = on")
            yield cursor

    @asynccontextmanager
    async def rebuilding(self, experiment_id: int, *tables: str) -> AsyncIterator[AsyncCursor]:
        """Open a transaction that may read a whole log and locks `tables` against other writers.

        It sees what others committed before. Other writers wait, and add to what it stores. What is
        measured of the experiment does not change meanwhile.
        """
        async with self.scanning() as cursor:
            await lock_layouts(cursor, [experiment_id])
            names = SQL(", ").join(map(Identifier, tables))
            await cursor.execute(SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(names))
            yield cursor

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncCursor]:
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            yield cursor


def count_events(tally: SignalTally, n_events: int) -> None:
    """Count the events of a committed transaction. Events without a result of their own are repeats."""
    tally.results["repeated"] = max(0, n_events - tally.results.total())
    for result, n in tally.results.items():
        if n:
            LEDGER_EVENTS.labels(result).inc(n)
