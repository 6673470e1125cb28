"""Lines that every process logs about itself: `version`, `peers`, `schema`, and `drained`."""

import asyncio
import os
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

import structlog

from app import __version__
from app.core.logs import brief, peer
from app.core.outages import POSTGRES_ERRORS
from app.core.postgres import connect
from app.core.schema import revisions
from app.core.serving import Ending
from app.core.settings import Settings

SCHEMA_S: Final = 5.0
"""Time limit of the question for the schema."""

_LOG: Final = structlog.get_logger(__name__)


@asynccontextmanager
async def announced(settings: Settings, ending: Ending) -> AsyncIterator[None]:
    """Log the version and the engines of this process; at its end, log that it is drained."""
    assert settings.database_url is not None
    assert settings.valkey_url is not None
    _LOG.info("version", version=__version__, python=platform.python_version(), pid=os.getpid())
    _LOG.info("peers", valkey=peer(settings.valkey_url), postgres=peer(settings.database_url))
    schema = asyncio.create_task(_announce_schema(settings.database_url), name="announce")
    began = asyncio.create_task(_time_of(ending), name="ending")
    try:
        yield
    finally:
        schema.cancel()
        began.cancel()
    await asyncio.wait({schema, began})
    took_s = None if began.cancelled() else round(monotonic() - began.result(), 3)
    _LOG.info("drained", took_s=took_s)


async def _time_of(ending: Ending) -> float:
    await ending.wait()
    return monotonic()


async def _announce_schema(database_url: str) -> None:
    needed = revisions()[-1]
    try:
        async with asyncio.timeout(SCHEMA_S):
            revision = await _revision(database_url)
    except POSTGRES_ERRORS as error:
        _LOG.warning("schema", revision=None, needed=needed, error=brief(error))
        return
    if revision == needed:
        _LOG.info("schema", revision=revision, needed=needed)
    else:
        _LOG.warning("schema", revision=revision, needed=needed, then="run `wald migrate`")


async def _revision(database_url: str) -> str | None:
    async with await connect(database_url) as connection:
        exists = await (
            await connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL")
        ).fetchone()
        if exists is None or not exists[0]:
            return None
        row = await (await connection.execute("SELECT version_num FROM alembic_version")).fetchone()
        return None if row is None else str(row[0])
