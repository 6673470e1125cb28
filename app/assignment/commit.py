"""Group commit of exposures: all waiting exposures go to Valkey as one stream entry.

One flush is in flight at a time. The next flush takes what arrived meanwhile. So no exposure waits
on purpose, and flushes grow when Valkey is slow.
"""

import asyncio
from collections import deque
from typing import Any, Final

from app.assignment import exposure, limits
from app.core.errors import Unavailable
from app.core.stream import StreamAppender
from app.core.telemetry import EXPOSURE_FLUSHES

ExposureRow = tuple[bytes, str, dict[str, Any] | None]
"""An `Exposure` as a tuple: body, unit, context."""

_WRITTEN: Final = EXPOSURE_FLUSHES.labels("written")
_FAILED: Final = EXPOSURE_FLUSHES.labels("failed")


class ExposureCommit:
    """Queue of one server's exposures for Valkey, at most `EXPOSURES_PENDING_MAX`."""

    def __init__(self, appender: StreamAppender, *, shards: int) -> None:
        self._appender = appender
        self._shards = shards
        self._shard = 0
        self._loop = asyncio.get_running_loop()
        self._full: deque[_Flush] = deque()  # waiting flushes; more than one only under overload
        self._open = _Flush(self._loop)  # the flush that still grows
        self._pending = 0
        self._running: asyncio.Task[None] | None = None
        self.unrecorded = 0
        """Number of exposures given up since the start."""

    def add(self, row: ExposureRow) -> asyncio.Future[bool]:
        """Add an exposure; return the future of whether it was recorded.

        The future resolves after about `EXPOSURE_DEADLINE_S` at most. All exposures of one flush
        share it.
        """
        if self._pending >= limits.EXPOSURES_PENDING_MAX or not self._appender.connected:
            self.unrecorded += 1
            return _refused(self._loop)
        self._pending += 1
        flush = self._open
        flush.rows.append(row)
        if len(flush.rows) >= limits.EXPOSURES_FLUSH_MAX:
            self._full.append(flush)
            self._open = _Flush(self._loop)
        if self._running is None:
            self._running = self._loop.create_task(self._run(), name="exposure-commit")
        return flush.recorded

    async def drain(self) -> None:
        """Wait until every exposure is recorded or given up."""
        while self._running is not None:
            await asyncio.wait({self._running})

    async def _run(self) -> None:
        while self._pending:
            if self._full:
                flush = self._full.popleft()
            else:
                flush, self._open = self._open, _Flush(self._loop)
            recorded = await self._append(flush.rows)
            self._pending -= len(flush.rows)
            if not recorded:
                self.unrecorded += len(flush.rows)
            flush.recorded.set_result(recorded)
        self._running = None

    async def _append(self, rows: list[ExposureRow]) -> bool:
        self._shard = (self._shard + 1) % self._shards
        try:
            await self._appender.append(self._shard, exposure.KIND, len(rows), exposure.encode(rows))
        except (Unavailable, ValueError, TypeError, OverflowError):  # from Valkey or the encoder
            _FAILED.inc()
            return False
        _WRITTEN.inc()
        return True


class _Recorded(asyncio.Future[bool]):
    """A future that stays valid for the others when one waiter is cancelled."""

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ARG002 - asyncio's signature
        """Refuse the cancellation."""
        return False


class _Flush:
    """Exposures of one stream entry."""

    __slots__ = ("recorded", "rows")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.rows: list[ExposureRow] = []
        self.recorded = _Recorded(loop=loop)


def _refused(loop: asyncio.AbstractEventLoop) -> asyncio.Future[bool]:
    refused = loop.create_future()
    refused.set_result(False)
    return refused
