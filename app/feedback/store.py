"""The ledger in PostgreSQL: log, totals and stream position change together, or not at all."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from importlib.resources import files
from typing import Final, LiteralString, NamedTuple, TypeVar
from uuid import UUID

from psycopg import AsyncConnection, AsyncCursor, DataError, IntegrityError
from psycopg.errors import DeadlockDetected

from app.core import limits
from app.core.postgres import connect
from app.feedback.batch import Batch, Rows, StreamEntry

_T = TypeVar("_T")


def _sql(name: str) -> LiteralString:
    return files(__package__).joinpath(f"sql/{name}.sql").read_text()


_TEMPORARY_TABLES: Final = _sql("temporary_tables")
_ACQUIRE_LEASE: Final = _sql("acquire_lease")
_INSERT_ASSIGNMENTS: Final = _sql("insert_assignments")
_EXPOSE_ASSIGNMENTS: Final = _sql("expose_assignments")
_UPSERT_SIGNALS: Final = _sql("upsert_signals")
_UPSERT_UNIT_SIGNALS: Final = _sql("upsert_unit_signals")
_AFFECT_BY_UNIT: Final = _sql("affect_by_unit")
_LOCK_AFFECTED: Final = _sql("lock_affected")
_AFFECT_SILENT: Final = _sql("affect_silent")
_AFFECT_RANGE: Final = _sql("affect_range")
_REBUILD_TOTALS: Final = _sql("rebuild_totals")
_RESOLVE_REWARDS: Final = _sql("resolve_rewards")

POISON: Final = (DataError, IntegrityError)
"""What PostgreSQL raises about the events themselves; any other error is about its own state."""

_UNIT_LOCKS: Final = 64
_LOCK_CLASS: Final = 0x57414C44  # "WALD"
_NEVER: Final = "-infinity"


class Lease(NamedTuple):
    """The right to apply one shard's entries, until someone else has a greater `fence`."""

    shard: int
    fence: int
    position: str
    applied: int

    def moved(self, entries: Sequence[StreamEntry]) -> "Lease":
        """Behind the last of `entries`."""
        return self._replace(
            position=entries[-1].id, applied=self.applied + sum(entry.n for entry in entries)
        )


class Fenced(Exception):
    """The lease has gone to another owner: nothing was written."""


class LedgerStore:
    """One connection's worth of ledger work. Every method is one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def open(cls, database_url: str) -> AsyncIterator["LedgerStore"]:
        """Connect and prepare the session."""
        async with await connect(database_url) as connection:
            # A batch is sorted in memory, and looks its rows up one by one even while the tables are small.
            await connection.execute("SET work_mem = '32MB'")
            await connection.execute("SET random_page_cost = 1.1")
            await connection.execute(_TEMPORARY_TABLES)
            yield cls(connection)

    async def acquire(self, shard: int, owner: str) -> Lease | None:
        """Take a shard whose owner is gone or overdue by PostgreSQL's clock; None: somebody holds it."""
        cursor = await self._connection.execute(
            _ACQUIRE_LEASE, {"shard": shard, "owner": owner, "lease_s": limits.LEASE_S}
        )
        row = await cursor.fetchone()
        return None if row is None else Lease(shard, *row)

    async def release(self, shard: int, owner: str) -> None:
        """Let the next owner in without waiting for the lease to end."""
        await self._connection.execute(
            "UPDATE stream_positions SET owner = NULL, lease_until = NULL WHERE shard = %s AND owner = %s",
            (shard, owner),
        )

    async def renew(self, lease: Lease, watermark: datetime) -> None:
        """Keep the lease of an idle shard, all of whose entries before `watermark` are in the log.

        Raises Fenced.
        """
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await _check_fence(cursor, lease)
            await _move(cursor, lease, watermark)

    async def apply(
        self, lease: Lease, batch: Batch, entries: Sequence[StreamEntry], watermark: datetime
    ) -> tuple[Lease, list[int]]:
        """Take `batch`, the staged `entries`, into log and totals and move behind the last of them.

        Returns the lease at its new position and the experiments whose totals changed. Raises Fenced.
        """

        async def work(cursor: AsyncCursor) -> tuple[Lease, list[int]]:
            await _check_fence(cursor, lease)
            await _lock_units(cursor, batch)
            await _stage(cursor, batch)
            await cursor.execute(_INSERT_ASSIGNMENTS)
            await cursor.execute(_EXPOSE_ASSIGNMENTS)
            await cursor.execute(_UPSERT_SIGNALS)
            await cursor.execute(_UPSERT_UNIT_SIGNALS)
            await cursor.execute(_AFFECT_BY_UNIT)
            changed = await _resolve(cursor, _NEVER)
            moved = lease.moved(entries)
            await _move(cursor, moved, watermark)
            return moved, changed

        return await self._transact(work)

    async def bury(self, lease: Lease, entry: StreamEntry, error: str, watermark: datetime) -> Lease:
        """Put an entry that cannot be applied aside and move on. Raises Fenced."""
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await _check_fence(cursor, lease)
            await cursor.execute(
                "INSERT INTO dead_letters (shard, stream_id, body, error) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (shard, stream_id) DO NOTHING",
                (lease.shard, entry.id, entry.body, error[: limits.DEAD_LETTER_ERROR_LENGTH_MAX]),
            )
            moved = lease.moved([entry])
            await _move(cursor, moved, watermark)
        return moved

    async def resolve_silence(self) -> tuple[int, list[int]]:
        """Resolve a bounded number of assignments whose horizon passed in silence.

        Silent as of the watermark that all shards have reached, so that no acknowledged signal is overtaken.
        Returns how many there were, and the experiments whose totals changed.
        """

        async def work(cursor: AsyncCursor) -> tuple[int, list[int]]:
            await cursor.execute(
                "SELECT min(watermark) FROM stream_positions HAVING count(*) = count(watermark)"
            )
            row = await cursor.fetchone()
            if row is None or row[0] is None:
                return 0, []
            watermark = row[0]
            await cursor.execute(_AFFECT_SILENT, (watermark, limits.SWEEP_ASSIGNMENTS_MAX))
            count = cursor.rowcount
            return count, await _resolve(cursor, watermark)

        return await self._transact(work)

    async def experiment_ids(self) -> list[int]:
        """Of all experiments."""
        cursor = await self._connection.execute("SELECT id FROM experiments ORDER BY id")
        return [row[0] for row in await cursor.fetchall()]

    async def resolve_again(
        self, experiment_id: int, *, after: tuple[int, UUID]
    ) -> tuple[tuple[int, UUID] | None, bool]:
        """Recompute the rewards of a bounded number of assignments behind (unit hash, id).

        Returns the last of them, None if there were none, and whether totals changed.
        """
        parameters = {
            "experiment_id": experiment_id,
            "unit_hash": after[0],
            "id": after[1],
            "rows_max": limits.SWEEP_ASSIGNMENTS_MAX,
        }

        async def work(cursor: AsyncCursor) -> tuple[tuple[int, UUID] | None, bool]:
            await cursor.execute(_AFFECT_RANGE, parameters)
            keys: list[tuple[int, UUID]] = await cursor.fetchall()
            changed = await _resolve(cursor, _NEVER)
            return max(keys, default=None), bool(changed)

        return await self._transact(work)

    async def recount(self, experiment_id: int) -> list[tuple[int, int, tuple[int, ...], tuple[int, ...]]]:
        """Set an experiment's totals to what its log says; returns (epoch, variant, before, after)."""
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await cursor.execute("SET LOCAL statement_timeout = 0")  # it reads the whole log of an experiment
            await cursor.execute("LOCK TABLE totals IN SHARE ROW EXCLUSIVE MODE")
            await cursor.execute(_REBUILD_TOTALS, {"experiment_id": experiment_id})
            return [
                (epoch, variant, tuple(map(int, before)), tuple(map(int, after)))
                for epoch, variant, before, after in await cursor.fetchall()
            ]

    async def _transact(self, work: Callable[[AsyncCursor], Awaitable[_T]]) -> _T:
        """Run `work` as one transaction; again if it was chosen to end a deadlock: then it wrote nothing."""
        for attempts_left in reversed(range(limits.LEDGER_DEADLOCKS_MAX)):
            try:
                async with self._connection.transaction(), self._connection.cursor() as cursor:
                    return await work(cursor)
            except DeadlockDetected:
                if not attempts_left:
                    raise
        raise AssertionError("the last attempt returns or raises")


async def _check_fence(cursor: AsyncCursor, lease: Lease) -> None:
    """Hold the position's row until the end of the transaction."""
    await cursor.execute(
        "SELECT FROM stream_positions WHERE shard = %s AND fence = %s FOR NO KEY UPDATE",
        (lease.shard, lease.fence),
    )
    if cursor.rowcount != 1:
        raise Fenced(f"shard {lease.shard} has another owner than that of fence {lease.fence}")


async def _move(cursor: AsyncCursor, lease: Lease, watermark: datetime) -> None:
    await cursor.execute(
        "UPDATE stream_positions SET position = %s, applied = %s, updated_at = now(),"
        " watermark = greatest(watermark, %s), lease_until = now() + %s * interval '1 second'"
        " WHERE shard = %s",
        (lease.position, lease.applied, watermark, limits.LEASE_S, lease.shard),
    )


async def _lock_units(cursor: AsyncCursor, batch: Batch) -> None:
    """Signals by unit exclude new exposures of the same experiments, which could take them over unseen.

    Exposures do not exclude each other. Experiments share a bounded number of locks, taken in order.
    """
    exclusive = {one % _UNIT_LOCKS for one in batch.unit_experiment_ids}
    for number in sorted({one % _UNIT_LOCKS for one in batch.experiment_ids}):
        mode: LiteralString = "" if number in exclusive else "_shared"
        await cursor.execute(f"SELECT pg_advisory_xact_lock{mode}(%s, %s)", (_LOCK_CLASS, number))


async def _stage(cursor: AsyncCursor, batch: Batch) -> None:
    await _copy(cursor, "COPY staged_assignments FROM STDIN (FORMAT BINARY)", batch.assignments)
    await _copy(cursor, "COPY staged_signals FROM STDIN (FORMAT BINARY)", batch.signals)
    await _copy(cursor, "COPY staged_unit_signals FROM STDIN (FORMAT BINARY)", batch.unit_signals)


async def _copy(cursor: AsyncCursor, statement: LiteralString, rows: Rows) -> None:
    if rows.n:
        async with cursor.copy(statement) as copy:
            await copy.write(rows.data)


async def _resolve(cursor: AsyncCursor, silent_until: datetime | str) -> list[int]:
    await cursor.execute(_LOCK_AFFECTED)
    await cursor.execute(_RESOLVE_REWARDS, {"silent_until": silent_until})
    return [row[0] for row in await cursor.fetchall()]
