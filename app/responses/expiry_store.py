"""Expiry of texts: drops the partitions whose day has come, except the responses still needed."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Final

from psycopg import AsyncConnection, AsyncCursor
from psycopg.sql import SQL, Identifier

from app.core.loops import stop_if_cancelled
from app.core.postgres import connect
from app.core.telemetry import RESPONSES_EXPIRED, RESPONSES_STORED, RESPONSES_WAITING
from app.core.valkey import RESPONSES
from app.ledger.session import sql
from app.responses import limits
from app.responses.insert_step import ensure_partitions, partition
from app.responses.plans_step import read_plans

_PARTITIONS: Final = sql(__package__, "read_partitions")
_STILL_NEEDED: Final = sql(__package__, "read_still_needed")
_MOVE: Final = sql(__package__, "move_responses")
_FORGET: Final = sql(__package__, "forget_keys")
_COUNT_WAITING: Final = sql(__package__, "count_waiting")


class ExpiryStore:
    """A connection that expires texts. Any number may run side by side."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, database_url: str) -> "ExpiryStore":
        """Connect."""
        return cls(await connect(database_url))

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def last_day(self) -> date | None:
        """Return the day of the last round; None before the first."""
        row = await (await self._connection.execute("SELECT day FROM response_expiry")).fetchone()
        return None if row is None else row[0]

    async def expire(self, today: date) -> int:
        """Drop the texts whose day has come, and return the number of dropped days.

        A response stays if it is held, or if its experiment now has a longer horizon or retention.
        """
        await self._connection.execute(
            "INSERT INTO response_expiry (id, day) VALUES (1, %s)"
            " ON CONFLICT (id) DO UPDATE SET day = excluded.day",
            (today,),
        )
        rows = await (await self._connection.execute(_PARTITIONS, (today,))).fetchall()
        for (day,) in rows:
            await self._drop(day, today)
        RESPONSES_EXPIRED.inc(len(rows))
        return len(rows)

    async def forget(self, today: date) -> None:
        """Delete addresses, waiting feedback and dead letters that are too old to be of any use."""
        before = today - timedelta(days=limits.ADDRESS_DAYS)
        bounds = {"before": before, "limit": limits.FORGOTTEN_MAX}
        while (await self._connection.execute(_FORGET, bounds)).rowcount == limits.FORGOTTEN_MAX:
            stop_if_cancelled()
        feedback = await self._connection.execute(
            "DELETE FROM response_feedback WHERE received_at < %s", (before,)
        )
        if feedback.rowcount:
            RESPONSES_STORED.labels("feedback_expired").inc(feedback.rowcount)
        await self._connection.execute("DELETE FROM response_erasures WHERE erased_at < %s", (before,))
        await self._connection.execute(
            "DELETE FROM dead_letters WHERE shard = %s AND created_at < %s",
            (RESPONSES, today - timedelta(days=limits.DEAD_RESPONSES_DAYS)),
        )

    async def measure(self) -> None:
        """Set the gauges of what waits."""
        rows = await (await self._connection.execute(_COUNT_WAITING)).fetchall()
        for kind, n in rows:
            RESPONSES_WAITING.labels(kind).set(n)

    async def _drop(self, day: date, today: date) -> None:
        experiment_ids = [
            row[0]
            for row in await (
                await self._connection.execute(
                    "SELECT DISTINCT experiment_id FROM responses WHERE expires_on = %s", (day,)
                )
            ).fetchall()
        ]
        plans = await read_plans(self._connection, experiment_ids)
        days = {experiment_id: plan.days for experiment_id, plan in plans.items()}
        async with self._connection.cursor() as cursor:
            needed = await _still_needed(cursor, day, days, today)
        # A hold that comes from now on needs the partition of tomorrow.
        later = {expires_on for _, expires_on in needed} | {today + timedelta(days=1)}
        await ensure_partitions(self._connection, later)
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await cursor.execute("SET LOCAL lock_timeout = '2s'")
            await cursor.execute("SET LOCAL statement_timeout = 0")
            # New holds wait, and then see that the responses are gone.
            await cursor.execute("LOCK TABLE response_holds IN SHARE ROW EXCLUSIVE MODE")
            if needed := await _still_needed(cursor, day, days, today):
                keys, moved_to = zip(*needed, strict=True)
                await cursor.execute(_MOVE, {"day": day, "keys": list(keys), "days": list(moved_to)})
            name = Identifier(partition(day))
            await cursor.execute(SQL("ALTER TABLE responses DETACH PARTITION {}").format(name))
            await cursor.execute(SQL("DROP TABLE {}").format(name))
            await cursor.execute("DELETE FROM response_keys WHERE seq IS NULL AND expires_on = %s", (day,))


async def _still_needed(
    cursor: AsyncCursor, day: date, days: Mapping[int, int], today: date
) -> list[tuple[object, date]]:
    """Read which responses of a day are needed longer, and until when."""
    await cursor.execute(
        _STILL_NEEDED,
        {"day": day, "today": today, "experiment_ids": list(days), "days": list(days.values())},
    )
    return [(key, expires_on) for key, expires_on in await cursor.fetchall()]
