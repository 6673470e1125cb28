"""Group commit of signals: what several requests bring goes to Valkey together, and is answered together.

A few flushes are in flight at a time, since large batches keep Valkey busy; while they are, what comes waits
and forms the next. Small requests share a stream entry, large ones are cut into several.
"""

import asyncio
from collections.abc import Sequence

from app.core.errors import Unavailable
from app.core.stream import StreamAppender
from app.feedback import entry, limits
from app.feedback.entry import SignalsEntry


class SignalsCommit:
    """The signals of one server on their way to Valkey, at most `FEEDBACK_PENDING_MAX` of them.

    Entries go by several connections: Valkey syncs once for what they bring at a time, but takes the large
    entries of one connection one by one.
    """

    def __init__(self, appenders: Sequence[StreamAppender], *, shards: int) -> None:
        self._appenders = appenders
        self._shards = shards
        self._turn = 0
        self._waiting: list[tuple[SignalsEntry, asyncio.Future[None]]] = []
        self._pending = 0
        self._flushes: set[asyncio.Task[None]] = set()

    def append(self, signals: SignalsEntry) -> asyncio.Future[None]:
        """Done when Valkey has written them all. May raise Unavailable: some may be written then."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._pending + signals.n > limits.FEEDBACK_PENDING_MAX:
            written.set_exception(Unavailable("too many events are waiting for Valkey"))
            return written
        self._waiting.append((signals, written))
        self._pending += signals.n
        self._start()
        return written

    async def drain(self) -> None:
        """Wait until all that was appended is written or has failed."""
        while self._flushes:
            await asyncio.wait(self._flushes)

    def _start(self) -> None:
        if self._waiting and len(self._flushes) < limits.FEEDBACK_FLUSHES_MAX:
            waiting, self._waiting = self._waiting, []
            flush = asyncio.create_task(self._flush(waiting), name="signals-commit")
            self._flushes.add(flush)
            flush.add_done_callback(self._finished)

    def _finished(self, flush: "asyncio.Task[None]") -> None:
        self._flushes.discard(flush)
        self._start()

    async def _flush(self, waiting: list[tuple[SignalsEntry, asyncio.Future[None]]]) -> None:
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

    async def _write(self, parts: list[SignalsEntry]) -> None:
        appending = []
        for chunk in entry.chunks(parts, limits.FEEDBACK_ENTRY_EVENTS_MAX):
            self._turn += 1
            appender = self._appenders[self._turn % len(self._appenders)]
            shard = self._turn % self._shards
            appending.append(appender.append(shard, entry.KIND, chunk.n, entry.encode(chunk)))
        # All of them are waited for: one that fails must not leave others under way.
        for outcome in await asyncio.gather(*appending, return_exceptions=True):
            if outcome is not None:
                raise outcome
