"""One HTTP/1.1 connection with bounds on a client's data and time, and on our memory for it.

uvicorn's protocol trusts its clients. `BoundedProtocol` adds bounds against hostile clients:

| bound | answer beyond it |
|---|---|
| request target, number and size of headers | 414, 431 |
| time until a head or a body is complete | 408 |
| bytes of a body with its framing | 413 |
| invalid `Host`, or two that differ | 400 |
| requests in progress in this process | 503, except for `/health` and `/ready` |
| open connections | the connection that waits longest for its client is closed |
| waiting pipelined requests, unread responses | reading stops until there is room |
| a client that reads nothing for `READER_S` | closed |

A refusal is the last response of its connection. It follows the responses to earlier requests.
"""

import heapq
import re
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, ClassVar, Final

import httptools
import msgspec
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.core import limits
from app.core.errors import Problem, Unavailable
from app.core.http import send_problem
from app.core.telemetry import CONNECTIONS_REFUSED

PROBES: Final = frozenset({"/health", "/ready"})
_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::([0-9]{0,5}))?")
_PORT_MAX: Final = 65_535
_NEVER: Final = float("inf")
_encode: Final = msgspec.json.Encoder().encode


class Refused(Exception):
    """Raised in callbacks of the parser when a request crosses a bound. It carries the answer."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        kind = title.lower().replace(" ", "-")
        self.problem = Problem(f"/problems/{kind}", title, status, detail)


_MALFORMED: Final = Refused(400, "Malformed request", "the request is not valid HTTP/1.1")


class _Flow(FlowControl):
    """uvicorn's flow control. It also stops reading while the client reads nothing."""

    _held = False  # reading resumes after the client has read

    def pause_writing(self) -> None:
        """Stop reading. The transport calls this when its buffer is full."""
        super().pause_writing()
        if not self.read_paused:
            self._held = True
            self.pause_reading()

    def resume_writing(self) -> None:
        """Resume reading. The transport calls this when its buffer has room."""
        super().resume_writing()
        if self._held:
            self._held = False
            self.resume_reading()

    def resume_reading(self) -> None:
        """Resume reading now, or after the client has read."""
        if not self.read_paused:
            return
        if self.write_paused:
            self._held = True
        else:
            super().resume_reading()


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with the bounds of this module."""

    connections_max: ClassVar[int] = limits.CONNECTIONS_MAX

    _stage = 0
    """Position of the parser: 0 between requests, 1 in a head, 2 in a body or its trailers."""
    _n_due = 0
    """Number of requests with a complete head and no complete response."""
    _noted: list[tuple[bytes, bytes]] | None = None
    """Headers of the request that spans several pieces; the next two fields belong to it."""
    _noted_stage = 0
    _noted_bytes = 0
    """Size of the pieces so far that contain its head, or its body."""
    _waiting_since = 0.0
    """Loop time since which we wait for the client's request; 0 while the client waits for us."""
    _abort_at = _NEVER
    """Loop time at which we cut the connection, because the client does not read or leave."""
    _host = b""
    """The last valid `Host` of this connection."""
    _hosted: list[tuple[bytes, bytes]] | None = None
    """Headers of the last request with a `Host`."""
    _trailed: list[tuple[bytes, bytes]] | None = None
    """Headers of the last request with trailers."""
    _n_trailers = 0
    _unparsed: bytes = b""
    """Bytes that wait for the parser: at most one read of the transport."""
    _parsing = False
    _input_ended = False
    """Whether we ignore further input: a request was refused, or asked for another protocol."""
    _refusal: Refused | None = None
    """A refusal that waits for earlier responses."""

    def connection_made(self, transport: Any) -> None:
        """Begin the connection. Close others if there are too many."""
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._waiting_since = self.loop.time()
        if len(self.connections) > self.connections_max:
            _make_room(
                other
                for other in self.connections
                if isinstance(other, BoundedProtocol) and other is not self
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what waits for the parser."""
        self._input_ended = True
        self._unparsed = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse these bytes, or keep them while there is no room."""
        if self._input_ended:
            return
        if self._unparsed:
            self._unparsed += data
            self.flow.pause_reading()
        elif len(data) <= limits.PARSED_BYTES:
            self._parse(data)
        else:
            self._unparsed = data
            self._parse_on()

    def _parse_on(self) -> None:
        """Parse the waiting bytes in pieces, as long as there is room for their requests."""
        if self._parsing:  # a response during parsing: the loop below is running
            return
        self._parsing = True
        data, start = memoryview(self._unparsed), 0
        while start < len(data) and not self._input_ended:
            if len(self.pipeline) >= limits.PIPELINED_MAX or self.flow.write_paused:
                self.flow.pause_reading()
                break
            self._parse(data[start : start + limits.PARSED_BYTES])
            start += limits.PARSED_BYTES
        self._unparsed = b"" if self._input_ended else bytes(data[start:])
        self._parsing = False

    def _parse(self, piece: bytes | memoryview) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            # We support no other protocol. What follows may not be HTTP, so we ignore it.
            self._input_ended = True
            if isinstance(self.cycle, RequestResponseCycle):
                self.cycle.keep_alive = False
            return
        except httptools.HttpParserError as error:
            self._refuse(error.__context__ if isinstance(error.__context__, Refused) else _MALFORMED)
            return
        if self._stage:
            self._note_incomplete(len(piece))
        elif self._n_due:
            self._waiting_since = 0.0

    def _note_incomplete(self, n_bytes: int) -> None:
        """Note that the request continues after this piece."""
        if self._noted is not self.headers:
            self._noted, self._noted_stage, self._noted_bytes = self.headers, self._stage, 0
            self._waiting_since = self.loop.time()
        elif self._noted_stage != self._stage:
            self._noted_stage, self._noted_bytes = self._stage, 0
        self._noted_bytes += n_bytes
        if self._stage == 1:
            if len(self.url) > limits.TARGET_BYTES_MAX:
                self._refuse(_target_too_long())
            elif self._noted_bytes > limits.HEAD_BYTES_MAX + limits.PARSED_BYTES:
                self._refuse(_head_too_large())
        elif self._noted_bytes > limits.FRAMED_BODY_BYTES_MAX:
            detail = f"a body may have {limits.FRAMED_BODY_BYTES_MAX} bytes with its framing"
            self._refuse(Refused(413, "Too large", detail))

    # Callbacks of the parser
    def on_message_begin(self) -> None:
        """Begin a request, at its first byte."""
        self._stage = 1
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or drop a trailer. Raises Refused."""
        if self._stage == 2:
            self._drop_trailer()
            return
        name = name.lower()
        if name == b"host":
            if value != self._host or self._hosted is self.headers:
                self._check_host(value)
            self._hosted = self.headers
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def _drop_trailer(self) -> None:
        if self._trailed is not self.headers:
            self._trailed, self._n_trailers = self.headers, 0
        self._n_trailers += 1
        if self._n_trailers > limits.HEADERS_MAX:
            raise _head_too_large()

    def on_headers_complete(self) -> None:
        """Check the head and start the request. Raises Refused."""
        self._check_head()
        super().on_headers_complete()
        self._accept_head()

    def _check_head(self) -> None:
        """Check the head as a whole. Raises Refused."""
        if len(self.headers) > limits.HEADERS_MAX:
            raise _head_too_large()
        if self._noted is self.headers:  # otherwise it is in one piece, which is below the bounds
            if len(self.url) > limits.TARGET_BYTES_MAX:
                raise _target_too_long()
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > limits.HEAD_BYTES_MAX:
                raise _head_too_large()

    def _accept_head(self) -> None:
        """Note that the request has a cycle, which will give a response."""
        self._stage = 2
        self._n_due += 1

    def _check_host(self, value: bytes) -> None:
        if self._hosted is self.headers and value != self._host:
            raise Refused(400, "Malformed request", "the request has two Host headers that differ")
        matched = _HOST.fullmatch(value)
        if matched is None or int(matched[1] or 0) > _PORT_MAX:
            shown = value[:100].decode("ascii", "backslashreplace")
            detail = f"Host must be a name or an address, optionally with a port; got {shown!r}"
            raise Refused(400, "Malformed request", detail)
        self._host = value

    def on_message_complete(self) -> None:
        """Complete the request, after its last byte."""
        self._stage = 0
        super().on_message_complete()

    # The requests of this connection
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        full = len(self.tasks) >= limits.REQUESTS_MAX and cycle.scope["path"] not in PROBES
        super()._start_asgi_task(cycle, _overloaded if full else app)

    def on_response_complete(self) -> None:
        """Continue after a response. `check_deadlines` replaces uvicorn's timer per response."""
        self._n_due -= 1
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._n_due:
            self._waiting_since = self.loop.time()
        if self._refusal is not None and not self._n_due:
            self._send(self._refusal)
        elif self._unparsed and not self._parsing:
            self._parse_on()

    def pause_writing(self) -> None:
        """Set a deadline for the client to read."""
        super().pause_writing()
        self._abort_at = min(self._abort_at, self.loop.time() + limits.READER_S)

    def resume_writing(self) -> None:
        """Clear the deadline, and parse what waits."""
        super().resume_writing()
        if not self._input_ended:
            self._abort_at = _NEVER
        if self._unparsed and not self._parsing:
            self._parse_on()

    def shutdown(self) -> None:
        """Finish the requests in progress, then close. The server calls this when it ends."""
        super().shutdown()
        if self._input_ended and not self._n_due:
            self.transport.close()

    # Refusals
    def _refuse(self, refusal: Refused) -> None:
        """Send this as the last response of the connection, after earlier responses."""
        CONNECTIONS_REFUSED.labels(str(refusal.problem.status)).inc()
        self._input_ended = True
        self._waiting_since = 0.0
        if self._stage == 2 and not self._abandon():
            self.transport.close()
        elif self._n_due:
            self._refusal = refusal
        else:
            self._send(refusal)

    def _abandon(self) -> bool:
        """Drop the request with the incomplete body; return False if its response has begun."""
        cycle = self.cycle
        if cycle.response_started or cycle.response_complete:
            return False
        self._n_due -= 1
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
        return True

    def _send(self, refusal: Refused) -> None:
        """Write the refusal. Close when the client has left or after `LINGER_S`."""
        self._refusal = None
        transport, body = self.transport, _encode(refusal.problem)
        if transport.is_closing():
            return
        head = [STATUS_LINE[refusal.problem.status]]
        for name, value in self.server_state.default_headers:
            head += (name, b": ", value, b"\r\n")
        head.append(b"content-type: application/problem+json\r\nconnection: close\r\n")
        head.append(b"content-length: %d\r\n\r\n" % len(body))
        transport.write(b"".join((*head, body)))
        self._abort_at = self.loop.time() + limits.LINGER_S
        # Closing at once would reset the connection of a client that still sends, and lose the
        # response.
        if transport.can_write_eof():
            transport.write_eof()
        self.flow.resume_reading()

    def check_deadlines(self, now: float) -> None:
        """Refuse or close a slow connection. `now` is the loop's time, about once a second."""
        if now > self._abort_at:
            self.transport.abort()
        elif self.transport.is_closing():
            self._abort_at = min(self._abort_at, now + limits.READER_S)
        elif self._waiting_since and self.flow.read_paused:  # the client waits for us
            self._waiting_since = now
        elif self._waiting_since and now - self._waiting_since > self._patience_s():
            if self._stage:
                part = "body" if self._stage == 2 else "head"
                detail = f"the {part} of the request was not complete within {self._patience_s():g} s"
                self._refuse(Refused(408, "Request timeout", detail))
            else:
                self.transport.close()

    def _patience_s(self) -> float:
        if self._stage == 0 and self.cycle is not None:
            return limits.KEEP_ALIVE_S
        return limits.BODY_S if self._stage == 2 else limits.HEAD_S

    @property
    def dispensability(self) -> tuple[bool, float]:
        """Sort key for closing connections: incomplete requests come first."""
        return self._stage == 0 and self.cycle is not None, self._waiting_since or _NEVER

    @property
    def busy(self) -> bool:
        """Whether a complete request waits for its response."""
        return self._n_due > (self._stage == 2)

    def evict(self) -> None:
        """Close the connection at once to make room for another."""
        CONNECTIONS_REFUSED.labels("evicted").inc()
        self.connections.discard(self)
        self.transport.abort()


def _make_room(connections: Iterable[Any]) -> None:
    """Close some connections, first those whose incomplete requests are oldest."""
    idle = (
        connection
        for connection in connections
        if isinstance(connection, BoundedProtocol) and not connection.busy
    )
    key = attrgetter("dispensability")
    for connection in heapq.nsmallest(limits.CONNECTIONS_EVICTED, idle, key=key):
        connection.evict()


async def _overloaded(_: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    """Answer 503 in place of the application."""
    await send_problem(send, Unavailable("the server has too many requests in progress; try again"))


def _target_too_long() -> Refused:
    return Refused(414, "Target too long", f"a URL may have {limits.TARGET_BYTES_MAX} bytes")


def _head_too_large() -> Refused:
    most = f"at most {limits.HEADERS_MAX} headers and {limits.HEAD_BYTES_MAX} bytes"
    return Refused(431, "Head too large", f"the head of a request may have {most}")
