"""Group commit of signals: the signals of several requests are written to Valkey together.

A few flushes run at a time, because Valkey handles large batches best. Signals that arrive
meanwhile wait and form the next flush. Small requests share a stream entry; large requests are cut
into several.
"""

import asyncio
from collections.abc import Sequence

from app.core.errors import Unavailable
from app.core.stream import StreamAppender
from app.feedback import entry, limits
from app.feedback.entry import SignalsEntry


class SignalsCommit:
    """Queue of one server's signals for Valkey, at most `FEEDBACK_PENDING_MAX` signals long.

    Entries use several connections: Valkey syncs its file once for all connections, but handles the
    large entries of one connection one by one.
    """

    def __init__(self, appenders: Sequence[StreamAppender], *, shards: int) -> None:
        self._appenders = appenders
        self._shards = shards
        self._turn = 0
        self._waiting: list[tuple[SignalsEntry, asyncio.Future[None]]] = []
        self._pending = 0
        self._flushes: set[asyncio.Task[None]] = set()

    def append(self, signals: SignalsEntry) -> asyncio.Future[None]:
        """Return a future that is done when Valkey has written all of these signals.

        The future may raise Unavailable; some of the signals may be written all the same.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._pending + signals.n > limits.FEEDBACK_PENDING_MAX:
            written.set_exception(Unavailable("too many events are waiting for Valkey"))
            return written
        self._waiting.append((signals, written))
        self._pending += signals.n
        self._start()
        return written

    async def drain(self) -> None:
        """Wait until every appended signal is written or has failed."""
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
            if written.done():  # its request was cancelled
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
        # Wait for all: when one fails, the others must not still be running.
        for outcome in await asyncio.gather(*appending, return_exceptions=True):
            if outcome is not None:
                raise outcome
