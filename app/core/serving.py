"""HTTP server of a process: uvicorn inside our own event loop, so that we control its end."""

import asyncio
import gc
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog
import uvicorn

from app.core import limits
from app.core.connection import BoundedProtocol
from app.core.errors import Unavailable
from app.core.process import descriptor_limit, raise_descriptor_limit

_LOG = structlog.get_logger(__name__)

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
_HANG_UP: Final = "wald.hang_up"
ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


_TICKS_BETWEEN_CHECKS: Final = 10


class Ending:
    """Signal that a process must end. Open streams wait for it and send their last event."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()

    def listen(self) -> None:
        """Begin on SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in ENDING_SIGNALS:
            loop.add_signal_handler(number, self.begin)

    def begin(self) -> None:
        """Wake all waiting tasks."""
        self._begun.set()

    async def wait(self) -> None:
        """Wait until the process must end."""
        await self._begun.wait()


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to `Ending`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Check the deadlines of connections. uvicorn calls this ten times a second."""
        if counter % _TICKS_BETWEEN_CHECKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.check_deadlines(now)
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and log the addresses."""
        await super().startup(sockets)
        for host, port, *_ in (listener.getsockname() for listener in sockets or ()):
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            _LOG.info("listening", url=f"http://{address}")

    def hang_up(self, peer: tuple[str, int] | None) -> None:
        """Abort the connection of this peer."""
        for connection in list(self.server_state.connections):
            if peer is not None and getattr(connection, "client", None) == peer:
                connection.transport.abort()


def hang_up(scope: Any) -> None:
    """End the connection of a request at once, and drop what the client has not read.

    Does nothing if the scope does not come from `serve_http`.
    """
    abort = (scope.get("extensions") or {}).get(_HANG_UP)
    if abort is not None:
        abort()


async def serve_http(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    ending: Ending,
    protocol: type[BoundedProtocol] = BoundedProtocol,
    shared: bool = True,
) -> None:
    """Listen until `ending` begins, then finish requests for at most `SHUTDOWN_GRACE_S`.

    Several processes may listen on one port of one machine if all of them are `shared`. The kernel
    spreads connections over them. Raises Unavailable if the address is in use or invalid.
    """
    raise_descriptor_limit()
    room = descriptor_limit() - limits.DESCRIPTORS_RESERVED
    protocol.connections_max = max(1, min(limits.CONNECTIONS_MAX, room))

    async def with_hang_up(scope: Any, receive: Any, send: Any) -> None:
        peer = scope.get("client")
        scope.setdefault("extensions", {})[_HANG_UP] = lambda: server.hang_up(peer)
        await app(scope, receive, send)

    config = uvicorn.Config(
        with_hang_up,
        http=protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=limits.CONNECTIONS_WAITING_MAX,
        timeout_graceful_shutdown=limits.SHUTDOWN_GRACE_S,
    )
    server = _Server(config)
    with _listening(host, port, shared=shared) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
        waiting = asyncio.create_task(ending.wait(), name="ending")
        gc.collect()
        gc.freeze()  # collecting long-lived objects would stall requests for tens of ms
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        server.should_exit = True
        await serving


@contextmanager
def _listening(host: str, port: int, *, shared: bool) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        try:
            listener.bind((host, port))
        except OSError as error:
            raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror}") from error
        listener.setblocking(False)  # noqa: FBT003
        yield listener
