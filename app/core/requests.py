"""Client address, request id and access log line of every request.

The fast paths of `/assign` and `/feedback` bypass this module. `logged_fast_paths` wraps them
if an access log is kept.
"""

import re
import secrets
from collections.abc import Sequence
from time import perf_counter
from typing import Any, ClassVar, Final

import structlog
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.core.fast_path import FastPath, FastPathProtocol, Headers, Reply, with_fast_paths
from app.core.serving import ASGIApp

REQUEST_ID: Final = b"x-request-id"
_VALID_ID: Final = re.compile(rb"[A-Za-z0-9._:;=/+@-]{1,128}")
_LOG: Final = structlog.get_logger(__name__)


def request_id(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the caller's `X-Request-ID`, or a new id if it sent no valid single one."""
    given = [value for name, value in headers if name == REQUEST_ID]
    if len(given) == 1 and _VALID_ID.fullmatch(given[0]):
        return given[0]
    return secrets.token_hex(16).encode()


def with_request_id(app: ASGIApp, *, access_log: bool) -> ASGIApp:
    """Wrap `app`: add a request id to every answer and to the log lines of its request."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        begun, given, status = perf_counter(), request_id(scope["headers"]), 0

        async def send_with_id(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (REQUEST_ID, given)]}
            await send(message)

        structlog.contextvars.bind_contextvars(request_id=given.decode())
        try:
            await app(scope, receive, send_with_id)
        finally:
            if access_log:
                client = scope.get("client")
                _log(given, (scope["method"], scope["path"]), status, begun, client[0] if client else None)
            structlog.contextvars.unbind_contextvars("request_id")

    return answer


def behind_proxies(app: ASGIApp, trusted: Sequence[str]) -> ASGIApp:
    """Wrap `app`: trust `X-Forwarded-For` and `-Proto` only from clients in `trusted` networks."""
    return ProxyHeadersMiddleware(app, list(trusted)) if trusted else app


def logged_fast_paths(*fast_paths: FastPath) -> type[FastPathProtocol]:
    """Return a protocol class whose fast paths also write the access log.

    The client in these lines is the peer of the connection; behind a proxy, that is the proxy.
    """
    plain = with_fast_paths(*(_Logged(fast_path) for fast_path in fast_paths))
    return type("LoggedFastPaths", (_WithPeer, plain), {})


class _WithPeer(FastPathProtocol):
    """Protocol that exposes the peer during parsing, when a fast path answers."""

    peer: ClassVar[str | None] = None

    def _parse(self, piece: bytes | memoryview) -> None:
        _WithPeer.peer = self.client[0] if self.client else None
        super()._parse(piece)


class _Logged:
    """A fast path whose answers carry a request id and are logged."""

    def __init__(self, fast_path: FastPath) -> None:
        self._fast_path = fast_path
        self.method = fast_path.method
        self.path = fast_path.path
        self.body_bytes_max = fast_path.body_bytes_max

    def admits(self, headers: Headers) -> bool:
        """Return what the fast path returns."""
        return self._fast_path.admits(headers)

    def answer(self, query: bytes, headers: Headers, body: bytes, reply: Reply) -> bool:
        """Answer with a request id, and log the request."""
        begun, given, peer = perf_counter(), request_id(headers), _WithPeer.peer

        def logged(status: int, answered: Headers, content: bytes) -> None:
            reply(status, (*answered, (REQUEST_ID, given)), content)
            _log(given, (self.method.decode(), self.path.decode()), status, begun, peer)

        return self._fast_path.answer(query, headers, body, logged)


def _log(given: bytes, request: tuple[str, str], status: int, begun: float, client: str | None) -> None:
    _LOG.info(
        "request",
        request_id=given.decode(),
        method=request[0],
        path=request[1],
        status=status,
        duration_ms=round(1_000 * (perf_counter() - begun), 2),
        client=client,
    )
