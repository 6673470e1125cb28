"""Group commit of signals: what several requests bring goes to Valkey together, and is answered together.

One flush is in flight at a time; the next takes what has come meanwhile. Small requests share a stream entry,
large ones are cut into several.
"""

import asyncio

from app.core import limits
from app.core.errors import Unavailable
from app.core.stream import StreamAppender
from app.feedback import entry
from app.feedback.entry import SignalsEntry


class SignalsCommit:
    """The signals of one server on their way to Valkey, at most `FEEDBACK_PENDING_MAX` of them."""

    def __init__(self, appender: StreamAppender, *, shards: int) -> None:
        self._appender = appender
        self._shards = shards
        self._shard = 0
        self._waiting: list[tuple[SignalsEntry, asyncio.Future[None]]] = []
        self._pending = 0
        self._running: asyncio.Task[None] | None = None

    async def append(self, signals: SignalsEntry) -> None:
        """Return when Valkey has written them all. Raises Unavailable; then some may have been written."""
        if self._pending + signals.n > limits.FEEDBACK_PENDING_MAX:
            raise Unavailable("too many events are waiting for Valkey")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((signals, written))
        self._pending += signals.n
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="signals-commit")
        await written

    async def drain(self) -> None:
        """Wait until all that was appended is written or has failed."""
        while self._running is not None:
            await asyncio.wait({self._running})

    async def _run(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            error: Exception | None = None
            try:
                await self._write([signals for signals, _ in waiting])
            except Exception as caught:  # noqa: BLE001 - it is raised again by those who wait
                error = caught
            for signals, written in waiting:
                self._pending -= signals.n
                if written.done():  # its caller has gone
                    continue
                if error is None:
                    written.set_result(None)
                else:
                    written.set_exception(error)
        self._running = None

    async def _write(self, parts: list[SignalsEntry]) -> None:
        appending = []
        for chunk in entry.chunks(parts, limits.FEEDBACK_ENTRY_EVENTS_MAX):
            self._shard = (self._shard + 1) % self._shards
            appending.append(self._appender.append(self._shard, entry.KIND, chunk.n, entry.encode(chunk)))
        # All of them are waited for: one that fails must not leave others under way.
        for outcome in await asyncio.gather(*appending, return_exceptions=True):
            if outcome is not None:
                raise outcome
