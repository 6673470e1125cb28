"""The step that stores responses, each once: first their keys, then their rows by day."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection, AsyncCursor
from psycopg.sql import SQL, Identifier, Literal

from app.assignment.assignment_id import AssignmentId
from app.ledger.session import sql

_INSERT_KEYS: Final = sql(__package__, "insert_keys")
_COPY: Final = sql(__package__, "copy_responses")
_TYPES: Final = (
    *("date", "uuid", "int4", "int8", "timestamptz", "timestamptz", "uuid", "int4", "int2", "bool"),
    *("int4", "int4", "float8", "float8", "text", "text", "text", "text", "text", "bytea"),
)


class NewResponse(NamedTuple):
    """A response to store.

    `assignment` is the body of its assignment id; None: its unit has none yet.
    """

    response_key: UUID
    experiment_id: int
    unit_hash: int
    expires_on: date
    id_hash: int | None
    assignment: bytes | None
    received_at: datetime
    at: datetime
    failed: bool
    tokens_in: int | None
    tokens_out: int | None
    latency_ms: float | None
    cost_usd: float | None
    unit: str | None
    response_id: str | None
    session_id: str | None
    model: str | None
    finish_reason: str | None
    body: bytes | None


async def ensure_partitions(connection: AsyncConnection, days: Iterable[date]) -> None:
    """Create the partitions for these days of expiry. Any number may run side by side."""
    for day in days:
        name = partition(day)
        if await (await connection.execute("SELECT to_regclass(%s)", (name,))).fetchone() != (None,):
            continue
        bounds = {"partition": Identifier(name), "day": Literal(day), "next": Literal(day + timedelta(1))}
        # Attaching lets readers go on, unlike CREATE TABLE ... PARTITION OF.
        async with connection.transaction():
            await connection.execute("LOCK TABLE responses IN SHARE UPDATE EXCLUSIVE MODE")
            if await (await connection.execute("SELECT to_regclass(%s)", (name,))).fetchone() != (None,):
                continue
            await connection.execute(
                SQL("CREATE TABLE {partition} (LIKE responses INCLUDING ALL)").format(**bounds)
            )
            await connection.execute(
                SQL(
                    "ALTER TABLE responses ATTACH PARTITION {partition} FOR VALUES FROM ({day}) TO ({next})"
                ).format(**bounds)
            )


def partition(day: date) -> str:
    """Return the name of the partition for a day of expiry."""
    return f"responses_{day:%Y%m%d}"


async def insert(cursor: AsyncCursor, new: Sequence[NewResponse]) -> set[UUID]:
    """Store those of the responses whose key is new, and return their keys.

    The partitions exist. The caller holds the lock that orders the writers of responses, so that
    readers who go by `seq` never miss a response.
    """
    distinct = list({response.response_key: response for response in reversed(new)}.values())[::-1]
    if not distinct:
        return set()
    await cursor.execute(
        _INSERT_KEYS,
        {
            "keys": [response.response_key for response in distinct],
            "experiment_ids": [response.experiment_id for response in distinct],
            "unit_hashes": [response.unit_hash for response in distinct],
            "days": [response.expires_on for response in distinct],
            "id_hashes": [response.id_hash for response in distinct],
            "assignments": [response.assignment for response in distinct],
        },
    )
    fresh = {row[0] for row in await cursor.fetchall()}
    async with cursor.copy(_COPY) as writing:
        writing.set_types(_TYPES)
        for response in distinct:
            if response.response_key in fresh:
                await writing.write_row(_row(response))
    return fresh


def _row(new: NewResponse) -> tuple[object, ...]:
    """Return the columns of the row in the order of `_COPY`."""
    assigned: tuple[object, ...] = (None, None, None)
    if new.assignment is not None:
        known = AssignmentId.from_body(new.assignment)
        assigned = (known.id, known.epoch, known.variant)
    return (
        *(new.expires_on, new.response_key, new.experiment_id, new.unit_hash, new.received_at, new.at),
        *assigned,
        *new[8:],
    )
