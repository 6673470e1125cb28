"""A server's eye on the kills that PostgreSQL keeps, whatever becomes of Valkey."""

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from app.allocation import limits
from app.allocation.kill_store import KILLS_CHANNEL, read_recorded
from app.assignment.snapshot_keeper import SnapshotKeeper
from app.core.loops import stop_if_cancelled
from app.core.outages import POSTGRES_ERRORS
from app.core.postgres import Session, connect
from app.core.telemetry import DEGRADED

_LOG: Final = structlog.get_logger(__name__)


class KillWatch:
    """Listens on a separate connection, and polls every `KILLS_POLL_S`: poolers drop notifications.

    `error` says why the last look failed; None: it did not.
    """

    def __init__(self, database_url: str, keeper: SnapshotKeeper) -> None:
        self.error: str | None = "not asked yet"
        self._database_url = database_url
        self._keeper = keeper

    async def run(self) -> None:
        """Follow the kills until cancelled; connect again when PostgreSQL was away."""
        while True:
            stop_if_cancelled()
            try:
                await self._follow()
            except POSTGRES_ERRORS as error:
                if self.error is None:
                    _LOG.warning("kills_not_followed", error=str(error) or type(error).__name__)
                self.error = str(error) or type(error).__name__
                DEGRADED.labels("kills by postgres").set(1)
            await asyncio.sleep(limits.KILLS_RETRY_S)

    async def _follow(self) -> None:
        async with asyncio.timeout(limits.KILLS_READ_S):
            connection = await connect(self._database_url)
        try:
            async with asyncio.timeout(limits.KILLS_READ_S):
                await connection.execute(f"LISTEN {KILLS_CHANNEL}")
            while True:
                stop_if_cancelled()
                async with asyncio.timeout(limits.KILLS_READ_S):
                    await self._look(connection)
                self.error = None
                DEGRADED.labels("kills by postgres").set(0)
                async for _ in connection.notifies(timeout=limits.KILLS_POLL_S, stop_after=1):
                    self._keeper.refresh_from_database_soon()
        finally:
            with suppress(*POSTGRES_ERRORS):
                await connection.close()

    async def _look(self, connection: Session) -> None:
        keeper = self._keeper
        killed_before = keeper.snapshot.killed
        recorded, over = await read_recorded(connection, keeper.kills.pairs)
        if keeper.kills.know_recorded(recorded, over, killed_before):
            keeper.apply_kills()
