"""Group commit: what several requests append is written to Valkey together.

A few flushes run at a time, because Valkey handles large batches best. Parts that arrive meanwhile
wait and form the next flush. Small requests share a stream entry; large requests are cut into
several.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from app.core.errors import Unavailable
from app.core.packed import Packed
from app.core.stream import StreamAppender

P = TypeVar("P")


class GroupCommit(Generic[P]):
    """Queue of one server's parts for Valkey.

    `pack` turns parts into entries, which go to the `shards` in turn. `size` measures a part;
    together at most `pending_max` wait. Entries use several connections: Valkey syncs its file once
    for all connections, but handles the large entries of one connection one by one.
    """

    def __init__(
        self,
        appenders: Sequence[StreamAppender],
        *,
        shards: Sequence[int],
        pack: Callable[[Sequence[P]], Iterable[Packed]],
        size: Callable[[P], int],
        pending_max: int,
        flushes_max: int,
    ) -> None:
        self._appenders = appenders
        self._shards = shards
        self._pack = pack
        self._size = size
        self._pending_max = pending_max
        self._flushes_max = flushes_max
        self._turn = 0
        self._waiting: list[tuple[P, int, asyncio.Future[None]]] = []
        self._pending = 0
        self._flushes: set[asyncio.Task[None]] = set()

    def append(self, part: P) -> asyncio.Future[None]:
        """Return a future that is done when Valkey has written the whole part.

        The future may raise Unavailable; a piece of the part may be written all the same.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        size = self._size(part)
        if self._pending + size > self._pending_max:
            written.set_exception(Unavailable("too many events are waiting for Valkey"))
            return written
        self._waiting.append((part, size, written))
        self._pending += size
        self._start()
        return written

    async def drain(self) -> None:
        """Wait until every appended part is written or has failed."""
        while self._flushes:
            await asyncio.wait(self._flushes)

    def _start(self) -> None:
        if self._waiting and len(self._flushes) < self._flushes_max:
            waiting, self._waiting = self._waiting, []
            flush = asyncio.create_task(self._flush(waiting), name="group-commit")
            self._flushes.add(flush)
            flush.add_done_callback(self._finished)

    def _finished(self, flush: "asyncio.Task[None]") -> None:
        self._flushes.discard(flush)
        self._start()

    async def _flush(self, waiting: list[tuple[P, int, asyncio.Future[None]]]) -> None:
        error: Exception | None = None
        try:
            await self._write([part for part, _, _ in waiting])
        except Exception as caught:  # noqa: BLE001 - it is raised again by those who wait
            error = caught
        for _, size, written in waiting:
            self._pending -= size
            if written.done():  # its request was cancelled
                continue
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)

    async def _write(self, parts: list[P]) -> None:
        appending = []
        for entry in self._pack(parts):
            self._turn += 1
            appender = self._appenders[self._turn % len(self._appenders)]
            shard = self._shards[self._turn % len(self._shards)]
            appending.append(appender.append(shard, entry.kind, entry.n, entry.body))
        # Wait for all: when one fails, the others must not still be running.
        for outcome in await asyncio.gather(*appending, return_exceptions=True):
            if outcome is not None:
                raise outcome
