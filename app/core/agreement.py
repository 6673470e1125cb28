"""Settings that all processes of one deployment share: stored in the database, checked at start.

A different number of stream shards loses events: a server would append to shards that no worker
reads. So a process refuses to start with it. Different webhook networks or ports only make
deliveries fail: the process that starts last has the value in force, and others say that theirs
differs.
"""

from collections.abc import Mapping
from typing import Final

import structlog
from sqlalchemy import Column, DateTime, Table, Text, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core.errors import Conflict
from app.core.postgres import METADATA
from app.core.settings import Settings

_LOG = structlog.get_logger(__name__)

agreed_settings = Table(
    "agreed_settings",
    METADATA,
    Column(
        "name", Text, primary_key=True, comment="of the environment variable, in lower case, without WALD_"
    ),
    Column("value", Text, nullable=False, comment="as in the environment variable"),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

STREAM_SHARDS: Final = "stream_shards"
_REPORTED: Final = ("webhook_allowed_networks", "webhook_allowed_ports")
NAMES: Final = (STREAM_SHARDS, *_REPORTED)


async def agree(engine: AsyncEngine, settings: Settings) -> None:
    """Store the settings of the first process; compare those of every later one.

    Safe for any number of processes at once. Raises Conflict, naming both values and the fix, if
    the number of stream shards differs.
    """
    mine = _values(settings)
    rows = [{"name": name, "value": value} for name, value in mine.items()]
    async with engine.begin() as connection:
        if set(mine) - set(await _read(connection)):
            insert = postgresql.insert(agreed_settings).values(rows)
            await connection.execute(insert.on_conflict_do_nothing())
        stored = await _read(connection)
        if shards_differ(settings, stored):
            raise Conflict(shards_differ(settings, stored))
        for name in _REPORTED:
            if stored[name] != mine[name]:
                await _write(connection, name, mine[name])
                _LOG.warning(
                    "setting_changed",
                    setting=variable(name),
                    before=stored[name],
                    now=mine[name],
                    fix="set the same value for every server and worker, then restart the others",
                )


async def read_agreed(engine: AsyncEngine) -> dict[str, str]:
    """Return the stored settings by name; empty before the first process starts."""
    async with engine.connect() as connection:
        return await _read(connection)


async def store_agreed(engine: AsyncEngine, name: str, value: str) -> None:
    """Change a stored setting. Processes with another value report it in `/ready`."""
    async with engine.begin() as connection:
        await _write(connection, name, value)


def shards_differ(settings: Settings, stored: Mapping[str, str]) -> str:
    """Return a text with both numbers of stream shards and the fix; empty if they agree."""
    agreed = stored.get(STREAM_SHARDS, str(settings.stream_shards))
    if agreed == str(settings.stream_shards):
        return ""
    return (
        f"WALD_STREAM_SHARDS is {settings.stream_shards} here, but {agreed} in the database: all servers and "
        f"workers must have the same number. Set WALD_STREAM_SHARDS={agreed}, or change it for all of them: "
        f"`wald settings set stream_shards {settings.stream_shards}`"
    )


def differences(settings: Settings, stored: Mapping[str, str]) -> list[str]:
    """Return a text for each stored setting that differs from this process."""
    mine = _values(settings)
    others = [
        f"{variable(name)} is {mine[name] or 'unset'} here, but {stored[name] or 'unset'} in a process that "
        "started later: set the same value for every server and worker, and restart them"
        for name in _REPORTED
        if stored.get(name, mine[name]) != mine[name]
    ]
    return [shards, *others] if (shards := shards_differ(settings, stored)) else others


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"WALD_{name.upper()}"


def _values(settings: Settings) -> dict[str, str]:
    environment = settings.environment()
    return {name: environment[variable(name)] for name in NAMES}


async def _read(connection: AsyncConnection) -> dict[str, str]:
    rows = await connection.execute(select(agreed_settings.c.name, agreed_settings.c.value))
    return {row.name: row.value for row in rows}


async def _write(connection: AsyncConnection, name: str, value: str) -> None:
    statement = postgresql.insert(agreed_settings).values(name=name, value=value)
    changed = {"value": value, "changed_at": func.now()}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=[agreed_settings.c.name], set_=changed)
    )
