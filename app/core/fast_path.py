"""Answer the busiest requests inside uvicorn's HTTP protocol, without ASGI and the framework.

uvicorn's configuration accepts a protocol class of ours: `FastPathProtocol`. A request that a fast
path does not admit or cannot answer goes to the framework, which then handles it from the start.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.core.connection import BoundedProtocol

Headers = Sequence[tuple[bytes, bytes]]
Reply = Callable[[int, Headers, bytes], None]
"""Takes the status, the headers except date and length, and the body. Call it once."""


class FastPath(Protocol):
    """Handler of the requests with one method and path."""

    method: bytes
    path: bytes
    body_bytes_max: int

    def admits(self, headers: Headers) -> bool:
        """Return whether to read the body and then call `answer`."""
        ...

    def answer(self, query: bytes, headers: Headers, body: bytes, reply: Reply) -> bool:
        """Call `reply` now or later; return False to leave the request to the framework."""
        ...


class FastPathProtocol(BoundedProtocol):
    """HTTP/1.1 protocol with `fast_paths`, by their path.

    A pipelined request waits for its turn, and then the framework answers it.
    """

    fast_paths: ClassVar[dict[bytes, FastPath]] = {}
    _turn: "_Turn | None" = None

    def on_message_begin(self) -> None:
        """Begin a request without an ASGI scope, which only `_give_to_framework` needs."""
        self._stage = 1
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Choose between a fast path and the framework."""
        self._check_head()
        path, _, query = self.url.partition(b"?")
        fast_path = self.fast_paths.get(path)
        if fast_path is None or not self._takes(fast_path, query):
            self._give_to_framework()
        self._accept_head()

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body for the fast path."""
        turn = self._turn
        if turn is None or self._current() is not turn or turn.fast_path is None:
            super().on_body(body)
        elif turn.n_bytes + len(body) <= turn.fast_path.body_bytes_max:
            turn.parts.append(body)
            turn.n_bytes += len(body)
        else:
            self._give_up(turn)
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer the request by its fast path, or leave it to the framework."""
        self._stage = 0
        turn = self._turn
        if turn is None or self._current() is not turn or turn.fast_path is None:
            super().on_message_complete()
        elif not turn.fast_path.answer(turn.query, self.headers, b"".join(turn.parts), turn.reply):
            self._give_up(turn)
            super().on_message_complete()

    def _takes(self, fast_path: FastPath, query: bytes) -> bool:
        """Start a turn of the fast path, if it admits the request; return whether it does."""
        parser, before = self.parser, self._current()
        if before is not None and not before.response_complete:
            return False
        if parser.get_method() != fast_path.method or parser.get_http_version() != "1.1":
            return False
        if self.expect_100_continue or parser.should_upgrade() or b"#" in query:
            return False
        if not fast_path.admits(self.headers):
            return False
        turn = self._turn
        if turn is None:
            turn = self._turn = _Turn(self)
        turn.begin(fast_path, query, keep_alive=parser.should_keep_alive())
        self.cycle = turn  # type: ignore[assignment]
        return True

    def _give_up(self, turn: "_Turn") -> None:
        """Pass the request and the body received so far to the framework."""
        turn.response_complete = True
        turn.fast_path = None
        self._give_to_framework()
        for part in turn.parts:
            super().on_body(part)

    def _give_to_framework(self) -> None:
        url, headers, expect_100_continue = self.url, self.headers, self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expect_100_continue
        self.headers += headers  # the list in the scope
        HttpToolsProtocol.on_headers_complete(self)

    def _current(self) -> "RequestResponseCycle | _Turn | None":
        """Return the cycle or turn of the present request; None before the first."""
        return self.cycle


class _Turn:
    """The part of uvicorn's request-response cycle that its protocol reads; one per connection."""

    disconnected = False
    response_started = False

    def __init__(self, protocol: FastPathProtocol) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        self.message_event = _NoEvent()
        self.response_complete = True
        self.keep_alive = True
        self.fast_path: FastPath | None = None
        self.query = b""
        self.parts: list[bytes] = []
        self.n_bytes = 0

    def begin(self, fast_path: FastPath, query: bytes, *, keep_alive: bool) -> None:
        """Begin another request."""
        self.fast_path = fast_path
        self.query = query
        self.keep_alive = keep_alive
        self.response_complete = False
        if self.parts:
            self.parts = []
        self.n_bytes = 0

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Write the response, and continue the connection."""
        self.response_complete = True
        protocol, transport = self._protocol, self._transport
        if self.disconnected or transport.is_closing():
            return
        head = [STATUS_LINE[status]]
        for name, value in (*protocol.server_state.default_headers, *headers):
            head += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"content-length: %d\r\n\r\n" % len(body))
        transport.write(b"".join((*head, body)))
        if not self.keep_alive:
            transport.close()
        protocol.on_response_complete()


class _NoEvent:
    """Replacement for the event that the application of a cycle waits for."""

    def set(self) -> None:
        """Do nothing."""


def with_fast_paths(*fast_paths: FastPath) -> type[FastPathProtocol]:
    """Return a protocol class with these fast paths."""
    by_path: Final = {fast_path.path: fast_path for fast_path in fast_paths}
    return type("FastPaths", (FastPathProtocol,), {"fast_paths": by_path})
