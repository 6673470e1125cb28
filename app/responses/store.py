"""Reader of stored responses, and the holds that keep them beyond their day."""

from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, Select, delete, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.responses import limits
from app.responses.model import StoredResponse, Texts
from app.responses.tables import response_holds, response_keys, responses
from app.responses.texts import unpack

_KEYS: Final = response_keys.c
_TEXTS: Final = responses.c
# Both columns, so that PostgreSQL looks into one partition only.
_SAME: Final = (_TEXTS.expires_on == _KEYS.expires_on) & (_TEXTS.response_key == _KEYS.response_key)
_LOCK_HOLDS: Final = text("LOCK TABLE response_holds IN ROW EXCLUSIVE MODE")
_STORED: Final = (
    select(_KEYS.seq, *(column for column in _TEXTS if column.name not in {"expires_on", "failed"}))
    .join_from(response_keys, responses, _SAME)
    .where(_KEYS.seq.is_not(None))
)


class ResponseStore:
    """Responses that are stored and whose assignment is known."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def read(self, keys: Sequence[UUID]) -> list[StoredResponse]:
        """Return those of the responses that are stored, in the order of storing.

        Raises ValueError for more than `READ_RESPONSES_MAX` keys.
        """
        if len(keys) > limits.READ_RESPONSES_MAX:
            raise ValueError(f"at most {limits.READ_RESPONSES_MAX} responses in one read, got {len(keys)}")
        return await self._read(_STORED.where(_KEYS.response_key.in_(keys)).order_by(_KEYS.seq))

    async def after(
        self, cursor: int, limit: int, *, experiment_id: int | None = None
    ) -> tuple[list[StoredResponse], int]:
        """Return the next responses behind `cursor`, and the cursor behind them.

        Start with 0. A reader that goes on from the cursor sees each stored response exactly once,
        however late its transaction committed: writers take turns.
        """
        statement = _STORED.where(_KEYS.seq > cursor)
        if experiment_id is not None:
            statement = statement.where(_KEYS.experiment_id == experiment_id)
        stored = await self._read(statement.order_by(_KEYS.seq).limit(limit))
        return stored, stored[-1].seq if stored else cursor

    async def hold(self, keys: Iterable[UUID], holder: str) -> set[UUID]:
        """Keep responses until `release`, and return those that exist. See the function `hold`."""
        async with self._engine.begin() as connection:
            return await hold(connection, keys, holder)

    async def release(self, keys: Iterable[UUID], holder: str) -> None:
        """End the holder's holds of these responses."""
        async with self._engine.begin() as connection:
            await release(connection, keys, holder)

    async def _read(self, statement: Select[Any]) -> list[StoredResponse]:
        async with self._engine.connect() as connection:
            return [_stored(row) for row in await connection.execute(statement)]


async def hold(connection: AsyncConnection, keys: Iterable[UUID], holder: str) -> set[UUID]:
    """Keep responses beyond their day of expiry while `holder` needs them; harmless when repeated.

    `holder` is the name of a room; each room has its own hold of a response. The hold is part of
    the caller's transaction. Return the keys of the responses that exist: others have expired or
    never came.
    """
    wanted = list(keys)
    # The lock first: expiry takes one against it, and the next statement sees what expiry removed.
    await connection.execute(_LOCK_HOLDS)
    existing = select(_TEXTS.response_key).join_from(response_keys, responses, _SAME)
    held = set((await connection.execute(existing.where(_KEYS.response_key.in_(wanted)))).scalars())
    if held:
        rows = [{"response_key": key, "holder": holder} for key in held]
        insert = postgresql.insert(response_holds).values(rows)
        await connection.execute(insert.on_conflict_do_nothing())
    return held


async def release(connection: AsyncConnection, keys: Iterable[UUID], holder: str) -> None:
    """End the holder's holds of these responses. It is part of the caller's transaction."""
    columns = response_holds.c
    chosen = columns.response_key.in_(list(keys)) & (columns.holder == holder)
    await connection.execute(delete(response_holds).where(chosen))


def _stored(row: Row[Any]) -> StoredResponse:
    columns = row._asdict()
    frame = columns.pop("body")
    texts = Texts("") if frame is None else unpack(frame)
    return StoredResponse(
        **columns,
        prompt=texts.prompt,
        response=texts.response,
        error=texts.error,
        metadata=texts.metadata,
        redacted=texts.redacted,
        erased=frame is None,
    )
