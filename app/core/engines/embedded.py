"""Both engines on one data folder: started, or found running."""

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

    Never two servers on one folder: whoever finds it locked attaches to the engines that run there,
    once they answer, and leaves them running at the end (`attached`). Engines that we started end
    with us, in order at the end of the context, at once when we are killed.

    `valkey` and `postgres` say which of the two are wanted. Raises Unavailable when an engine
    cannot start, Conflict naming the holder when the folder is locked and what runs there does not
    answer.
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
        """The folder, as an absolute path."""
        return self._folder.path

    @property
    def valkey_url(self) -> str:
        """Of the embedded Valkey; the same after every restart."""
        return self.valkey.url

    @property
    def database_url(self) -> str:
        """Of the embedded PostgreSQL; the same after every restart."""
        return self.postgres.url

    @property
    def holder_pid(self) -> int | None:
        """The process that runs the engines."""
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
        """True: the folder is ours. False: the engines of its living holder answer.

        Neither may be true for a moment: the holder is starting them, or it was killed and they are
        ending.
        """
        deadline = time.monotonic() + _LOCK_WAIT_S
        while not self._folder.try_lock():
            answered = await self._all_answer()
            holder = self._folder.holder()
            if answered and holder is not None and holder.alive:  # now, else they are about to end with it
                return False
            if time.monotonic() > deadline:
                raise Conflict(
                    f"{self._folder.path} is locked by process {holder.pid if holder else 'unknown'}"
                    f"{'' if holder and holder.alive else ', which has ended'}, and the engines there do not"
                    " answer; end what runs on it, or choose another --data-dir"
                )
            await asyncio.sleep(_LOCK_POLL_S)
        return True

    async def _all_answer(self) -> bool:
        return all(await asyncio.gather(*(engine.answers() for engine in self.wanted)))
