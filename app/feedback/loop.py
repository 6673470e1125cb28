"""Loops of the ledger that go on whatever happens to the engines, and the one that resolves silence."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import psycopg
import structlog
from redis.exceptions import RedisError

from app.core import limits
from app.feedback.store import LedgerStore

_LOG: Final = structlog.get_logger(__name__)

OnCommit = Callable[[Sequence[int]], None]
"""Told which experiments' totals have changed, right after the commit."""


class LedgerLoop:
    """Work on a connection of its own. When an engine fails it starts over: the stored position says where.

    `error` says what is wrong at present, if anything.
    """

    def __init__(self, name: str, database_url: str) -> None:
        self.name = name
        self.error: str | None = None
        self._database_url = database_url

    async def run(self) -> None:
        """Until cancelled."""
        delay_s = limits.RECONNECT_S_MIN
        while True:
            try:
                async with LedgerStore.open(self._database_url) as store:
                    delay_s = limits.RECONNECT_S_MIN
                    await self._work(store)
            except (psycopg.Error, RedisError, OSError, TimeoutError) as error:
                self.error = str(error) or type(error).__name__
                _LOG.warning("ledger_interrupted", loop=self.name, error=self.error)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, limits.RECONNECT_S_MAX)

    async def _work(self, store: LedgerStore) -> None:
        raise NotImplementedError


class HorizonLoop(LedgerLoop):
    """Resolves assignments that stayed silent until their deadline. Any number may run side by side."""

    def __init__(self, database_url: str, on_commit: OnCommit) -> None:
        super().__init__("horizons", database_url)
        self._on_commit = on_commit

    async def _work(self, store: LedgerStore) -> None:
        while True:
            resolved, changed = await store.resolve_silence()
            self.error = None
            if changed:
                self._on_commit(changed)
            if resolved < limits.SWEEP_ASSIGNMENTS_MAX:
                await asyncio.sleep(limits.SWEEP_INTERVAL_S)
