"""The short way of `GET /assign`: from parsed headers to written bytes, without ASGI and without a task.

It knows no errors. A request it cannot serve at once (odd in any way, unauthorised, of an unknown experiment)
goes to the framework, whose handler in `routes.py` gives the same answers, and all the refusals.
"""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.access.model import Scope, credential
from app.assignment import query
from app.assignment.service import Assigner, Assignment
from app.core import limits
from app.core.errors import WaldError
from app.core.telemetry import ASSIGN_SECONDS, FastHistogram

_TARGET: Final = b"/assign?"
_STATUS: Final = b"HTTP/1.1 200 OK\r\n"
_TYPE: Final = b"content-type: application/json\r\ncontent-length: %d\r\n"


class HotAssign:
    """Answers to plain requests, by the same `Assigner` that the framework's handler uses."""

    def __init__(self, assigner: Assigner) -> None:
        self._assigner = assigner
        self.durations = FastHistogram(ASSIGN_SECONDS)

    def answer(
        self, query_string: bytes, headers: Sequence[tuple[bytes, bytes]], reply: Callable[[bytes], None]
    ) -> bool:
        """Give `reply` the JSON, now or when the exposure is written. False: the framework has to answer."""
        assigner = self._assigner
        snapshot = assigner.keeper.snapshot
        if snapshot.keyring is None or snapshot.signer is None:
            return False
        try:
            snapshot.keyring.authenticate(credential(headers), Scope.ASSIGN, assigner.clock.now_ms())
            parameters = query.parameters(query_string)
            context = query.context(parameters)
        except WaldError:
            return False
        experiment = snapshot.by_key.get(parameters.get("experiment", ""))
        unit = parameters.get("unit")
        if experiment is None or not unit or len(unit) > limits.UNIT_LENGTH_MAX:
            return False
        if experiment.published.state in {"draft", "archived"} or experiment.published.stickiness == "strict":
            return False
        begun = perf_counter()

        def finish(assignment: Assignment) -> None:
            reply(assignment.json())
            self.durations.observe(perf_counter() - begun)

        assigner.assign_soon(experiment, unit, context, finish)
        return True


class HotProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with the short way inside; `serving` makes a subclass for one `HotAssign`.

    A pipelined request waits for its turn as any other, and is then answered by the framework.
    """

    hot: ClassVar[HotAssign]
    _turn: "_Turn | None" = None

    def on_message_begin(self) -> None:
        """Of the parser. The scope, which the short way does not need, is made in `on_headers_complete`."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Of the parser."""
        if self.url.startswith(_TARGET) and self._answers():
            return
        url, headers, expect_100_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect_100_continue
        self.headers += headers  # the list that is in the scope
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Of the parser. A body sent along with `GET /assign` is of no interest."""
        if self._current() is not self._turn:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Of the parser."""
        if self._current() is not self._turn:
            super().on_message_complete()

    def _current(self) -> "RequestResponseCycle | _Turn | None":
        """Whose request the parser is at: uvicorn's cycle, our turn, or nobody's yet."""
        return self.cycle

    def _answers(self) -> bool:
        parser, before = self.parser, self._current()
        if before is not None and not before.response_complete:
            return False
        if parser.get_method() != b"GET" or parser.get_http_version() != "1.1" or parser.should_upgrade():
            return False
        if self.expect_100_continue or b"#" in self.url:
            return False
        if self._turn is None:
            self._turn = _Turn(self)
        turn = self._turn
        turn.begin(keep_alive=parser.should_keep_alive())
        self.cycle = turn  # type: ignore[assignment]
        if self.hot.answer(self.url[len(_TARGET) :], self.headers, turn.reply):
            return True
        self.cycle = before  # type: ignore[assignment]
        return False


class _Turn:
    """The part of uvicorn's request-response cycle that its protocol looks at; one serves a connection."""

    disconnected = False

    def __init__(self, protocol: HotProtocol) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        self.message_event = _Nobody()
        self.response_complete = False
        self.keep_alive = True

    def begin(self, *, keep_alive: bool) -> None:
        """Another request."""
        self.response_complete = False
        self.keep_alive = keep_alive

    def reply(self, body: bytes) -> None:
        """Write the response, and let the connection go on."""
        self.response_complete = True
        protocol, transport = self._protocol, self._transport
        if self.disconnected or transport.is_closing():
            return
        head = [_STATUS]
        for name, value in protocol.server_state.default_headers:
            head += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        transport.write(b"".join((*head, _TYPE % len(body), b"\r\n", body)))
        if not self.keep_alive:
            transport.close()
        protocol.on_response_complete()


class _Nobody:
    """In place of the event that a cycle's application waits for."""

    def set(self) -> None:
        """Of asyncio.Event."""
