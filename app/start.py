"""Start of a process: it needs the schema, agreed settings, an admin key and a signing key.

The first of `wald serve`, `wald worker`, `wald up` and `wald migrate` creates what is missing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Final

import structlog
from msgspec.structs import replace
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.access.service import NO_ADMIN_KEY, AccessService
from app.access.store import AccessStore
from app.core import agreement, schema
from app.core.clock import Clock, SystemClock
from app.core.errors import Conflict, Unavailable
from app.core.health import Check
from app.core.loops import Loop, Loops
from app.core.outages import OUTAGES
from app.core.postgres import create_engine
from app.core.serving import Ending
from app.core.settings import Settings
from app.core.valkey import create_client

_LOG = structlog.get_logger(__name__)

START_WAIT_S: Final = 2.0
"""Longest wait for the first look at the database before a process listens."""
LOOK_S: Final = 1.0
"""Pause between two looks until everything is prepared."""
REVIEW_S: Final = 10.0
"""Pause between two later looks: settings of the deployment and admin keys may change."""


class Start:
    """Preparation of a process; `checks` says what it waits for.

    A process that cannot reach PostgreSQL continues: a server assigns from what Valkey has. It
    prepares once PostgreSQL answers. A process that must not run has a `refusal` and ends.
    """

    def __init__(
        self, settings: Settings, engine: AsyncEngine, access: AccessService, ending: Ending
    ) -> None:
        self.refusal: Conflict | None = None
        self._ending = ending
        self._settings = settings
        self._engine = engine
        self._access = access
        self._lacking: str | None = None  # what the schema lacks
        self._away: str | None = "not connected to PostgreSQL yet"
        self._differences: list[str] = []
        self._strands = False  # this server appends to shards that no worker reads
        self._doubts: tuple[str, ...] = ()
        self._has_admin_key = True
        self._prepared = asyncio.Event()
        self._looked = asyncio.Event()

    @asynccontextmanager
    async def begun(self, clock: Clock, random: Random) -> AsyncIterator[Loops]:
        """Prepare as soon as possible, and check afterwards that nothing has changed.

        Waits for the first look, at most `START_WAIT_S`. Raises Conflict, then or at the end of the
        block, if this process must not run.
        """
        async with Loops([Loop("start", self._look)], clock=clock, random=random) as loops:
            with suppress(TimeoutError):
                async with asyncio.timeout(START_WAIT_S):
                    await self._looked.wait()
            if self.refusal is None:
                yield loops
            if self.refusal is not None:
                raise self.refusal

    def after(self, loop: Loop) -> Loop:
        """Return the loop with a start that waits until everything is prepared."""

        async def run() -> None:
            await self._prepared.wait()
            await loop.run()

        return replace(loop, run=run)

    def checks(self) -> list[Check]:
        """Return the checks for `/ready`. They are critical without a schema or after a refusal."""
        if self.refusal is not None:
            return [Check("settings", ok=False, critical=True, detail=self.refusal.detail)]
        if self._lacking is not None:
            return [Check("schema", ok=False, critical=True, detail=self._lacking)]
        if not self._prepared.is_set():
            detail = "the schema is not checked yet: PostgreSQL does not answer"
            return [Check("schema", ok=False, detail=detail)]
        return [
            Check("schema", ok=True),
            Check(
                "settings",
                not self._differences,
                critical=self._strands,
                detail="; ".join(self._differences),
            ),
            Check("admin key", self._has_admin_key, detail="" if self._has_admin_key else NO_ADMIN_KEY),
        ]

    def errors(self) -> dict[str, str]:
        """Return the failed checks by name, for the heartbeat of a worker."""
        return {check.name: check.detail for check in self.checks() if not check.ok}

    async def _look(self) -> None:
        try:
            if self._prepared.is_set():
                await self._review()
            else:
                await self._prepare()
        except OUTAGES as error:
            self._is_away(error)
        except Conflict as refusal:
            self.refusal = refusal
            self._ending.begin()
        finally:
            self._looked.set()
        await asyncio.sleep(REVIEW_S if self._prepared.is_set() else LOOK_S)

    async def _prepare(self) -> None:
        if not await self._has_schema():
            return
        await agreement.agree(self._engine, self._settings)
        await ensure_access(self._access, self._settings)
        await self._review()
        self._prepared.set()

    async def _has_schema(self) -> bool:
        lacking = await schema_lacks(self._engine)
        if lacking != self._lacking:
            if lacking is None:
                _LOG.info("schema_is_there")
            else:
                _LOG.error("schema_missing", reason=lacking)
        self._lacking, self._away = lacking, None
        return lacking is None

    async def _review(self) -> None:
        if not await self._has_schema():
            return
        with suppress(Unavailable, RedisError):  # catch up for Valkey, in case no worker runs
            await self._access.publish_if_due()
        self._has_admin_key = await self._access.has_admin_key()
        agreed = await agreement.read_agreed(self._engine)
        self._differences = agreement.differences(self._settings, agreed)
        shards = int(agreed.get(agreement.STREAM_SHARDS, self._settings.stream_shards))
        self._strands = shards < self._settings.stream_shards
        doubts = await self._access.doubts(self._settings.admin_key)
        for doubt in doubts:
            if doubt not in self._doubts:
                _LOG.warning("admin_key", reason=doubt)
        self._doubts = doubts

    def _is_away(self, error: Exception) -> None:
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0] or type(error).__name__
        if self._away is None or not self._looked.is_set():
            _LOG.warning("start_waits_for_postgres", reason=reason)
        self._away = reason


async def schema_lacks(engine: AsyncEngine) -> str | None:
    """Return what the schema of the database lacks; None if this version can use it."""
    async with engine.connect() as connection:
        exists = await connection.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
        version = text("SELECT version_num FROM alembic_version")
        revision = await connection.scalar(version) if exists else None
    return schema.lacking(revision)


async def ensure_access_of(settings: Settings) -> tuple[str, ...]:
    """Call `ensure_access` on the engines of `settings`; return problems with admin keys."""
    assert settings.database_url is not None
    assert settings.valkey_url is not None
    engine, valkey = create_engine(settings.database_url), create_client(settings.valkey_url)
    try:
        access = AccessService(AccessStore(engine, valkey), SystemClock())
        await ensure_access(access, settings)
        return await access.doubts(settings.admin_key)
    finally:
        await valkey.aclose()
        await engine.dispose()


async def ensure_access(access: AccessService, settings: Settings) -> None:
    """Ensure a signing key, and store the admin key that the environment presets.

    It never creates an admin key, which would appear in the log of a server.
    """
    await access.ensure_signing_key()
    if settings.admin_key is not None:
        await access.store_preset(settings.admin_key)
