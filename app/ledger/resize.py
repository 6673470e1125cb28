"""A change of the number of stream shards of a deployment that loses no events."""

from importlib.resources import files
from typing import Final

from redis.asyncio import Redis
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.agreement import STREAM_SHARDS, store_agreed
from app.core.errors import Conflict
from app.core.valkey import shard_key, valkey_needed
from app.ledger.tables import stream_positions

_DROP_SHARD: Final = files(__package__).joinpath("lua/drop_shard.lua").read_text()


async def resize(engine: AsyncEngine, valkey: Redis, shards: int) -> None:
    """Store the number of shards that every process must have from its next start on.

    Shards that are no longer used must be empty and have no owner. Their positions are deleted, because
    the sweep waits for the watermark of every position.

    Raises Conflict, naming the shard and what to do; Unavailable without Valkey.
    """
    columns = stream_positions.c
    live = func.coalesce(columns.owner.is_not(None) & (columns.lease_until > func.now()), False)
    unused = columns.shard >= shards
    drop = valkey.register_script(_DROP_SHARD)
    async with engine.begin() as connection:
        rows = await connection.execute(
            select(columns.shard, columns.position, live.label("live")).where(unused).with_for_update()
        )
        for row in rows:
            if row.live:
                raise Conflict(
                    f"a worker still reads shard {row.shard}: stop all servers, then all workers; try again"
                )
            with valkey_needed():
                keys = [shard_key(row.shard, "events"), shard_key(row.shard, "appended")]
                dropped = await drop(keys=keys, args=[row.position])
            if not dropped:
                raise Conflict(
                    f"events wait in shard {row.shard}: stop all servers, let the workers run with the "
                    "earlier number until `wald doctor` says that 0 events wait, stop them, and try again"
                )
        await connection.execute(delete(stream_positions).where(unused))
    await store_agreed(engine, STREAM_SHARDS, str(shards))
