"""The lease and the position of a shard: the first and the last step of the transaction."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from psycopg import AsyncConnection, AsyncCursor

from app.ledger import limits
from app.ledger.log.batch import StreamEntry
from app.ledger.session import sql

_ACQUIRE_LEASE: Final = sql(__package__, "acquire_lease")


class Lease(NamedTuple):
    """The right to apply one shard's entries, valid until another process holds a greater `fence`.

    `position` is the id of the last entry applied; `applied` counts the events up to there.
    """

    shard: int
    fence: int
    position: str
    applied: int

    def after(self, entries: Sequence[StreamEntry]) -> "Lease":
        """Return the lease with its position behind the last of `entries`; unchanged without entries."""
        if not entries:
            return self
        return self._replace(
            position=entries[-1].id, applied=self.applied + sum(entry.n for entry in entries)
        )


class Renewal(NamedTuple):
    """The last sign of life of a shard's owner. An owner that is alive changes it."""

    fence: int
    until: datetime | None


class Fenced(Exception):
    """Another process owns the shard: nothing was written."""


async def acquire(
    connection: AsyncConnection, shard: int, owner: str, *, now: datetime, stalled: Renewal | None
) -> Lease | None:
    """Take a shard whose owner's session has ended, or whose owner has not renewed since `stalled` was read.

    Return None if another process holds the shard.
    """
    parameters = {
        "shard": shard,
        "owner": owner,
        "until": _lease_until(now),
        "stalled_fence": None if stalled is None else stalled.fence,
        "stalled_until": None if stalled is None else stalled.until,
    }
    row = await (await connection.execute(_ACQUIRE_LEASE, parameters)).fetchone()
    return None if row is None else Lease(shard, *row)


async def read_renewal(connection: AsyncConnection, shard: int) -> Renewal | None:
    """Read the last sign of life of the shard's owner; None if the shard never had an owner."""
    statement = "SELECT fence, lease_until FROM stream_positions WHERE shard = %s"
    row = await (await connection.execute(statement, (shard,))).fetchone()
    return None if row is None else Renewal(*row)


async def release(connection: AsyncConnection, shard: int, owner: str) -> None:
    """Give the shard up, so that the next owner need not wait."""
    await connection.execute(
        "UPDATE stream_positions SET owner = NULL, lease_until = NULL, session = NULL"
        " WHERE shard = %s AND owner = %s",
        (shard, owner),
    )


async def lock_position(cursor: AsyncCursor, lease: Lease) -> datetime | None:
    """Lock the shard's position until the transaction ends, and return its watermark.

    Raises Fenced if the lease has gone to another process.
    """
    await cursor.execute(
        "SELECT watermark FROM stream_positions WHERE shard = %s AND fence = %s FOR NO KEY UPDATE",
        (lease.shard, lease.fence),
    )
    row = await cursor.fetchone()
    if row is None:
        raise Fenced(f"shard {lease.shard} no longer belongs to the owner with fence {lease.fence}")
    watermark: datetime | None = row[0]
    return watermark


async def store_position(
    cursor: AsyncCursor, lease: Lease, watermark: datetime | None, *, now: datetime
) -> None:
    """Store the lease's position and renew the lease. A watermark never moves back; None keeps it."""
    await cursor.execute(
        "UPDATE stream_positions SET position = %s, applied = %s, updated_at = now(),"
        " watermark = greatest(watermark, %s), lease_until = %s WHERE shard = %s",
        (lease.position, lease.applied, watermark, _lease_until(now), lease.shard),
    )


def _lease_until(now: datetime) -> datetime:
    """Return the end of the lease: a sign of life, which no process compares with a clock."""
    return now + timedelta(seconds=limits.LEASE_S)
