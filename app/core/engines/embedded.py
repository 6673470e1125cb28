"""Embedded engines on one data folder, started here or already running."""

import asyncio
import time
from pathlib import Path
from typing import Final, Self

from app.core.engines.folder import DataFolder
from app.core.engines.postgres_server import PostgresServer
from app.core.engines.valkey_server import ValkeyServer
from app.core.errors import Conflict

_LOCK_WAIT_S: Final = 15.0
_LOCK_POLL_S: Final = 0.05


class EmbeddedEngines:
    """Valkey and PostgreSQL on `data_dir`, as an asynchronous context.

    A folder never has two servers. A process that finds it locked attaches to the engines that run
    there and leaves them running at its end (`attached`). Engines that we started end with us: in
    order at the end of the context, or at once if we are killed.

    `valkey` and `postgres` select the engines. Raises Unavailable if an engine cannot start.
    Raises Conflict, naming the holder, if the folder is locked and its engines do not answer.
    """

    def __init__(self, data_dir: Path, *, valkey: bool = True, postgres: bool = True) -> None:
        self._folder = DataFolder(data_dir)
        self.valkey = ValkeyServer(self._folder)
        self.postgres = PostgresServer(self._folder)
        self.wanted: tuple[ValkeyServer | PostgresServer, ...] = tuple(
            engine for engine, want in ((self.valkey, valkey), (self.postgres, postgres)) if want
        )
        self.attached = False

    @property
    def data_dir(self) -> Path:
        """Absolute path of the folder."""
        return self._folder.path

    @property
    def valkey_url(self) -> str:
        """URL of the embedded Valkey. It stays the same after a restart."""
        return self.valkey.url

    @property
    def database_url(self) -> str:
        """URL of the embedded PostgreSQL. It stays the same after a restart."""
        return self.postgres.url

    @property
    def holder_pid(self) -> int | None:
        """Id of the process that runs the engines."""
        holder = self._folder.holder()
        return None if holder is None else holder.pid

    async def __aenter__(self) -> Self:
        if not self.wanted:
            return self
        self.attached = not await self._lock_or_find_running()
        if not self.attached:
            try:
                for engine in self.wanted:
                    await engine.start()
            except BaseException:
                await self.__aexit__()
                raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.wanted and not self.attached:
            await asyncio.gather(*(engine.stop() for engine in self.wanted))
            self._folder.unlock()

    async def _lock_or_find_running(self) -> bool:
        """Lock the folder and return True; return False if its holder's engines answer.

        Waits while neither is the case: the holder is starting the engines, or was killed and they
        are ending.
        """
        deadline = time.monotonic() + _LOCK_WAIT_S
        while not self._folder.try_lock():
            answered = await self._all_answer()
            holder = self._folder.holder()
            if answered and holder is not None and holder.alive:  # checked last: engines end with it
                return False
            if time.monotonic() > deadline:
                raise Conflict(
                    f"{self._folder.path} is locked by process {holder.pid if holder else 'unknown'}"
                    f"{'' if holder and holder.alive else ', which has ended'}, and the engines there do not"
                    " answer: end that process, or choose another --data-dir"
                )
            await asyncio.sleep(_LOCK_POLL_S)
        return True

    async def _all_answer(self) -> bool:
        return all(await asyncio.gather(*(engine.answers() for engine in self.wanted)))
