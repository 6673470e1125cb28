"""Appending to the streams of events, for producers whose callers wait for the acknowledgement.

A connection of our own instead of the client library's: entries are sent the moment they come, any number in
flight, and a reply resolves its future without a task in between.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, cast

import hiredis
import structlog
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url

from app.core import limits
from app.core.errors import Unavailable
from app.core.valkey import shard_key

_APPEND: Final = files(__package__).joinpath("lua/append.lua").read_bytes()
_APPEND_SHA: Final = sha1(_APPEND, usedforsecurity=False).hexdigest()
_LOG = structlog.get_logger(__name__)


class StreamAppender:
    """Appends entries to the shards of the event stream; reconnects by itself.

    While there is no connection `append` fails at once. An entry without a reply within `deadline_s` fails
    together with all behind it, and the connection is dropped: a late reply is never taken for another's.
    """

    def __init__(self, url: str, *, deadline_s: float) -> None:
        self._url = url
        self._deadline_s = deadline_s
        self._replies: _Replies | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether `append` would send."""
        return self._replies is not None

    async def start(self) -> None:
        """Connect, and stay connected from now on. Returns after the first attempt, failed or not."""
        attempted = asyncio.Event()
        self._task = asyncio.create_task(self._stay_connected(attempted), name="stream-appender")
        await attempted.wait()

    async def stop(self) -> None:
        """Close the connection; what is in flight fails."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def append(self, shard: int, kind: str, n: int, body: bytes) -> asyncio.Future[None]:
        """Send an entry of `n` events. Done when Valkey has written it to its append-only file.

        Raises Unavailable (from the future; then it may or may not have been written).
        """
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._replies is None:
            outcome.set_exception(Unavailable("not connected to Valkey"))
            return outcome
        keys = shard_key(shard, "events"), shard_key(shard, "appended")
        self._send(self._replies, ("EVALSHA", _APPEND_SHA, 2, *keys, kind, n, body), outcome)
        return outcome

    def _send(self, replies: "_Replies", command: tuple[Any, ...], outcome: asyncio.Future[None]) -> None:
        def settle(reply: object) -> None:
            if outcome.done():
                return
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
                # Nothing ran, so it is safe to send it again, this time with the whole script.
                self._send(replies, ("EVAL", _APPEND, *command[2:]), outcome)
            elif isinstance(reply, Exception):
                outcome.set_exception(Unavailable(f"Valkey: {reply}"))
            else:
                outcome.set_result(None)

        replies.send(command, settle, self._deadline_s)

    async def _stay_connected(self, attempted: asyncio.Event) -> None:
        delay_s = limits.RECONNECT_S_MIN
        while True:
            replies = None
            try:
                replies = await _connect(self._url)
                self._replies = replies
                attempted.set()
                delay_s = limits.RECONNECT_S_MIN
                await replies.closed
            except (OSError, hiredis.HiredisError, TimeoutError) as error:
                _LOG.warning("stream_connection_failed", error=str(error) or type(error).__name__)
            finally:
                self._replies = None
                attempted.set()
                if replies is not None:
                    replies.abort(ConnectionError("closed"))
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, limits.RECONNECT_S_MAX)


class _Replies(asyncio.Protocol):
    """One connection: each reply goes to the callback of the command it answers, in the order sent."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[Callable[[object], None], asyncio.TimerHandle]] = deque()
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def send(self, command: tuple[Any, ...], settle: Callable[[object], None], deadline_s: float) -> None:
        """Send a command; `settle` gets its reply or an exception, once, and without being awaited."""
        if self._transport is None or self._transport.is_closing():
            settle(ConnectionError("connection lost"))
            return
        timer = self._loop.call_later(deadline_s, self.abort, TimeoutError(f"no reply in {deadline_s:g} s"))
        self._waiting.append((settle, timer))
        self._transport.write(hiredis.pack_command(command))

    async def ask(self, *command: Any) -> object:
        """Send a command and wait for its reply. Raises what `send` would give."""
        answer: asyncio.Future[object] = self._loop.create_future()

        def settle(reply: object) -> None:
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)

        self.send(command, settle, limits.HANDSHAKE_S)
        return await answer

    def abort(self, error: Exception) -> None:
        """Drop the connection; all commands in flight get `error`."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        waiting, self._waiting = self._waiting, deque()
        for settle, timer in waiting:
            timer.cancel()
            settle(error)
        if not self.closed.done():
            self.closed.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by duck typing only

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                settle, timer = self._waiting.popleft()
                timer.cancel()
                settle(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self.abort(ConnectionError(f"unexpected reply: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio.Protocol."""
        self.abort(exc or ConnectionError("connection closed by Valkey"))


async def _connect(url: str) -> _Replies:
    """A connection that has authenticated and answers. Raises OSError, HiredisError or TimeoutError."""
    options: dict[str, Any] = dict(parse_url(url))
    loop = asyncio.get_running_loop()
    kind = options.get("connection_class")
    async with asyncio.timeout(limits.HANDSHAKE_S):
        if kind is UnixDomainSocketConnection:
            _, replies = await loop.create_unix_connection(_Replies, options["path"])
        else:
            tls = (
                ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
                if kind is SSLConnection
                else None
            )
            host, port = options.get("host", "localhost"), options.get("port", 6379)
            _, replies = await loop.create_connection(_Replies, host, port, ssl=tls)
        try:
            if password := options.get("password"):
                await replies.ask("AUTH", options.get("username") or "default", password)
            if database := options.get("db"):
                await replies.ask("SELECT", database)
            await replies.ask("SCRIPT", "LOAD", _APPEND)
        except BaseException as error:
            replies.abort(ConnectionError(f"handshake: {error}"))
            raise
    return replies
