"""The lag of the ledger behind the acknowledged events."""

from typing import Final

from redis.asyncio import Redis
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.clock import Clock, SystemClock
from app.core.valkey import RESPONSES, valkey_needed
from app.ledger.stream import ShardStream
from app.ledger.tables import stream_positions

_CLOCK: Final[Clock] = SystemClock()


class LedgerLag:
    """Counts acknowledged events that are not in the totals yet."""

    def __init__(self, engine: AsyncEngine, valkey: Redis, *, shards: int) -> None:
        self._engine = engine
        self._streams = {shard: ShardStream(valkey, shard) for shard in (*range(shards), RESPONSES)}

    async def events(self) -> int:
        """Return the lag of all streams: 0 only if the totals have all events acknowledged before.

        Raises Unavailable without Valkey, and SQLAlchemy's errors without PostgreSQL.
        """
        columns = stream_positions.c
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(columns.shard, columns.position, columns.applied))
            positions = {row.shard: (row.position, row.applied) for row in rows}
        with valkey_needed():
            return sum(
                [
                    await stream.waiting(*positions.get(shard, ("0-0", 0)))
                    for shard, stream in self._streams.items()
                ]
            )

    async def watermark_age_s(self) -> float:
        """Return the age of the oldest watermark of a shard: newer events may be missing.

        It is 0.0 before the first watermark. Raises SQLAlchemy's errors without PostgreSQL.
        """
        async with self._engine.connect() as connection:
            oldest = await connection.scalar(select(func.min(stream_positions.c.watermark)))
        return 0.0 if oldest is None else max(0.0, (_CLOCK.now() - oldest).total_seconds())
