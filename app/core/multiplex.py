"""One connection to Valkey that many callers share; each waits for its own reply.

It sends commands at once, and a reply resolves its future without a task in between. The client
library uses a connection for each command in flight and takes three times as long.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import hiredis
import structlog
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url

from app.core import limits
from app.core.errors import Unavailable

_LOG: Final = structlog.get_logger(__name__)


class MultiplexedConnection:
    """A connection that sends commands in order, once each, and reconnects by itself.

    Without a connection, commands fail at once. If a command has no reply within `deadline_s`, it
    fails with all commands after it and the connection is dropped, so that a late reply never
    answers another command.
    """

    def __init__(self, url: str, *, deadline_s: float) -> None:
        self._url = url
        self._deadline_s = deadline_s
        self._replies: _Replies | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether a command would be sent."""
        return self._replies is not None and not self._replies.closed.done()

    async def start(self) -> None:
        """Connect, and reconnect from now on. Returns after the first attempt."""
        attempted = asyncio.Event()
        self._task = asyncio.create_task(self._stay_connected(attempted), name="valkey-connection")
        await attempted.wait()

    async def stop(self) -> None:
        """Close the connection. Commands in flight fail."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def ask(self, *command: str | bytes | float) -> asyncio.Future[Any]:
        """Send a command, and return the future of its reply. Texts are bytes.

        The future raises Valkey's error as `hiredis.ReplyError`, or Unavailable. After Unavailable
        the command may or may not have run.
        """
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._replies is None or self._replies.closed.done():
            outcome.set_exception(Unavailable("not connected to Valkey"))
        else:
            self._replies.send(command, outcome, self._deadline_s)
        return outcome

    async def _prepare(self, ask: "Callable[..., asyncio.Future[Any]]") -> None:
        """Send the first commands of a new connection, before any caller's."""

    async def _stay_connected(self, attempted: asyncio.Event) -> None:
        delay_s = limits.RECONNECT_S_MIN
        while True:
            try:
                replies = await self._connect()
                try:
                    self._replies = replies
                    attempted.set()
                    delay_s = limits.RECONNECT_S_MIN
                    await replies.closed
                finally:
                    self._replies = None
                    replies.abort("connection closed")
            except (OSError, TimeoutError, Unavailable, hiredis.HiredisError) as error:
                _LOG.warning("valkey_connection_failed", error=str(error) or type(error).__name__)
            attempted.set()
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, limits.RECONNECT_S_MAX)

    async def _connect(self) -> "_Replies":
        options: dict[str, Any] = dict(parse_url(self._url))
        async with asyncio.timeout(limits.HANDSHAKE_S):
            replies = await _open(options)
            try:

                def ask(*command: Any) -> asyncio.Future[Any]:
                    outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                    replies.send(command, outcome, limits.HANDSHAKE_S)
                    return outcome

                if password := options.get("password"):
                    await ask("AUTH", options.get("username") or "default", password)
                await ask("SELECT", options.get("db") or 0)
                await self._prepare(ask)
            except BaseException:
                replies.abort("no handshake")
                raise
        return replies


class _Replies(asyncio.Protocol):
    """Protocol of one connection. Replies resolve the futures of their commands in order."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[Any], asyncio.TimerHandle]] = deque()
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def send(self, command: tuple[Any, ...], outcome: asyncio.Future[Any], deadline_s: float) -> None:
        """Send a command. Its reply or failure resolves `outcome`."""
        if self._transport is None or self._transport.is_closing():
            outcome.set_exception(Unavailable("connection to Valkey lost"))
            return
        timer = self._loop.call_later(deadline_s, self.abort, f"no reply within {deadline_s:g} s")
        self._waiting.append((outcome, timer))
        self._transport.write(hiredis.pack_command(command))

    def abort(self, reason: str) -> None:
        """Drop the connection. All commands in flight fail."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        waiting, self._waiting = self._waiting, deque()
        for outcome, timer in waiting:
            timer.cancel()
            if not outcome.done():
                outcome.set_exception(Unavailable(f"Valkey: {reason}"))
        if not self.closed.done():
            self.closed.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport of the new connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport only has the methods

    def data_received(self, data: bytes) -> None:
        """Resolve the futures of the replies in these bytes."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                outcome, timer = self._waiting.popleft()
                timer.cancel()
                if outcome.done():  # its caller gave up
                    continue
                if isinstance(reply, hiredis.ReplyError):
                    outcome.set_exception(reply)
                else:
                    outcome.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self.abort(f"not a reply: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the commands in flight."""
        self.abort(str(exc or "connection closed by Valkey"))


async def _open(options: dict[str, Any]) -> _Replies:
    loop = asyncio.get_running_loop()
    kind = options.get("connection_class")
    if kind is UnixDomainSocketConnection:
        return (await loop.create_unix_connection(_Replies, options["path"]))[1]
    tls = ssl.create_default_context(cafile=options.get("ssl_ca_certs")) if kind is SSLConnection else None
    host, port = options.get("host", "localhost"), options.get("port", 6379)
    return (await loop.create_connection(_Replies, host, port, ssl=tls))[1]
