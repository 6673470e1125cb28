"""Kills in PostgreSQL, where they are kept, and in Valkey, where they are in force at once.

Either engine alone brings a kill to all servers: Valkey by its hash and channel, PostgreSQL by a
notification.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Final, Literal, cast

import msgspec
from psycopg import AsyncConnection as PsycopgConnection
from redis.asyncio import Redis
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.allocation.tables import kills
from app.assignment.store import KILLED_ANNOUNCEMENT, KILLED_KEY
from app.core.valkey import CHANGES_CHANNEL, registry_key, valkey_needed
from app.experiments import store as experiment_store
from app.experiments.model import Experiment
from app.experiments.tables import experiments
from app.webhooks.outbox import WebhookOutbox

_EXPERIMENTS_KEY: Final = registry_key("experiments")
KILLS_CHANNEL: Final = "wald_kills"
"""PostgreSQL notifies it of the key of every experiment that is killed or revived."""
_KILLED: Final = "SELECT key, revision FROM experiments WHERE killed"
_ENDED: Final = """
    SELECT experiments.key, max(kills.ended_at) FROM kills JOIN experiments ON experiments.id = experiment_id
    WHERE experiments.key = ANY(%s) AND kills.ended_at IS NOT NULL GROUP BY experiments.key
"""

KillEvent = Literal["experiment.killed", "experiment.revived"]
"""The types of webhooks that the kill switch sends."""


class Kill(msgspec.Struct, frozen=True):
    """A kill: who killed an experiment, why and when."""

    by: str
    reason: str
    at: datetime


def encode(kill: Kill) -> bytes:
    """Return the value in the hash of kills."""
    return msgspec.json.encode(kill)


def decode(value: bytes) -> Kill | None:
    """Read it back; None: it was written by hand, and stands until the experiment is revived."""
    try:
        return msgspec.json.decode(value, type=Kill)
    except msgspec.MsgspecError:
        return None


class KillStore:
    """SQL and Valkey of the kill switch."""

    def __init__(self, engine: AsyncEngine, valkey: Redis) -> None:
        self._engine = engine
        self._valkey = valkey
        self._outbox = WebhookOutbox()

    async def is_published(self, key: str) -> bool:
        """Return whether servers know the experiment. Raises Unavailable without Valkey."""
        with valkey_needed():
            return bool(await self._valkey.hexists(_EXPERIMENTS_KEY, key))

    async def put(self, key: str, kill: Kill) -> None:
        """Kill the experiment on every server within a second.

        Raises Unavailable without Valkey.
        """
        with valkey_needed():
            await self._valkey.hset(KILLED_KEY, key, encode(kill).decode())
            await self._valkey.publish(CHANGES_CHANNEL, KILLED_ANNOUNCEMENT)

    async def take_away(self, key: str) -> None:
        """Remove a kill from Valkey; one that is recorded stays in force.

        Raises Unavailable without Valkey.
        """
        with valkey_needed():
            await self._valkey.hdel(KILLED_KEY, key)
            await self._valkey.publish(CHANGES_CHANNEL, KILLED_ANNOUNCEMENT)

    async def waiting(self) -> dict[str, Kill]:
        """Return the readable kills that are in force and not recorded yet.

        Raises Unavailable without Valkey.
        """
        with valkey_needed():
            bodies = cast("dict[bytes, bytes]", await self._valkey.hgetall(KILLED_KEY))
        kills = {key.decode(): decode(body) for key, body in bodies.items()}
        return {key: kill for key, kill in kills.items() if kill is not None}

    async def record(self, key: str, kill: Kill, *, fresh: bool = False) -> Experiment | None:
        """Keep a kill. None: there is no such experiment, or it was revived after this kill.

        `fresh`: the kill is made now, so that no revival can have come after it, whatever the
        clocks say.
        """
        async with self._engine.begin() as connection:
            before = await experiment_store.lock(connection, experiments.c.key == key)
            if before is None or (not fresh and await _is_over(connection, before.id, kill.at)):
                return None
            if before.killed:
                return before
            row = {"experiment_id": before.id, "by": kill.by, "reason": kill.reason, "at": kill.at}
            kill_id = await connection.scalar(insert(kills).values(row).returning(kills.c.id))
            await self._tell(connection, "experiment.killed", key, kill_id, kill)
            await connection.execute(select(func.pg_notify(KILLS_CHANNEL, key)))
            changed = msgspec.structs.replace(before, killed=True)
            return await experiment_store.store(connection, before, changed, kill.at)

    async def revive(self, key: str, kill: Kill) -> Experiment | None:
        """Keep that a kill has ended, by whom and why. None: there is no such experiment."""
        async with self._engine.begin() as connection:
            before = await experiment_store.lock(connection, experiments.c.key == key)
            if before is None or not before.killed:
                return before
            open_one = kills.c.experiment_id == before.id, kills.c.ended_at.is_(None)
            ended = {"ended_at": kill.at, "ended_by": kill.by, "ended_reason": kill.reason}
            changing = update(kills).where(*open_one).values(**ended)
            kill_id = await connection.scalar(changing.returning(kills.c.id))
            await self._tell(connection, "experiment.revived", key, kill_id, kill)
            await connection.execute(select(func.pg_notify(KILLS_CHANNEL, key)))
            changed = msgspec.structs.replace(before, killed=False)
            return await experiment_store.store(connection, before, changed, kill.at)

    async def _tell(
        self, connection: AsyncConnection, event: KillEvent, key: str, kill_id: int | None, kill: Kill
    ) -> None:
        """Announce a kill or its end by webhook, once for each recorded kill."""
        revived = event == "experiment.revived"
        what = "serves again as it says" if revived else "is killed: everyone gets the control"
        facts = {
            "summary": f"{key} {what}. {kill.reason}",
            "severity": "critical",
            "experiment": key,
            "incident": f"kill-{kill_id}",
            "resolved": revived,
            "by": kill.by,
            "reason": kill.reason,
        }
        await self._outbox.enqueue(
            connection, key=f"kills/{kill_id}/{event}", type=event, data=facts, at=kill.at
        )


async def read_recorded(
    connection: PsycopgConnection, pending: Collection[tuple[str, bytes]]
) -> tuple[dict[str, int], set[tuple[str, bytes]]]:
    """Return the revisions of killed experiments by key, and the `pending` kills that have ended.

    One snapshot of the database per statement is enough: a kill that ends in between is pending
    once more.
    """
    rows = await (await connection.execute(_KILLED)).fetchall()
    recorded: dict[str, int] = dict(rows)
    if not pending:
        return recorded, set()
    ended: dict[str, datetime] = dict(
        await (await connection.execute(_ENDED, [[key for key, _ in pending]])).fetchall()
    )
    over = {(key, kill) for key, kill in pending if key in ended and _ended(kill, ended[key])}
    return recorded, over


def _ended(value: bytes, ended_at: datetime) -> bool:
    kill = decode(value)
    return kill is not None and kill.at <= ended_at


async def _is_over(connection: AsyncConnection, experiment_id: int, at: datetime) -> bool:
    later = select(kills.c.at).where(kills.c.experiment_id == experiment_id, kills.c.ended_at >= at).limit(1)
    return (await connection.scalar(later)) is not None
