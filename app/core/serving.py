"""A process that answers HTTP: granian inside our own event loop, so that we decide when and how it ends."""

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from app.core import limits
from app.core.errors import Unavailable

_LOG = structlog.get_logger(__name__)

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Ending:
    """The moment a process was told to end; open streams watch for it and say goodbye."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()

    def listen(self) -> None:
        """Begin when SIGTERM or SIGINT comes."""
        loop = asyncio.get_running_loop()
        for number in ENDING_SIGNALS:
            loop.add_signal_handler(number, self.begin)

    def begin(self) -> None:
        """Tell everybody who waits."""
        self._begun.set()

    @property
    def begun(self) -> bool:
        """Whether it has."""
        return self._begun.is_set()

    async def wait(self) -> None:
        """Until it begins."""
        await self._begun.wait()


async def serve_http(app: ASGIApp, *, host: str, port: int, ending: Ending) -> None:
    """Listen until `ending` begins; then finish what is in flight, for at most `SHUTDOWN_GRACE_S`.

    Several processes may listen on one port of one machine; the kernel spreads connections over them.
    Raises Unavailable when the address cannot be listened on.
    """
    server = Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=limits.CONNECTIONS_WAITING_MAX,
        backpressure=limits.REQUESTS_IN_FLIGHT_MAX,
        log_enabled=False,
    )
    serving = asyncio.create_task(server.serve(), name="http")
    waiting = asyncio.create_task(ending.wait(), name="ending")
    gc.collect()
    gc.freeze()  # a full collection of all that lives for good would stall requests for tens of milliseconds
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        waiting.cancel()
        reason = str(serving.exception() or "it stopped by itself").partition("\n")[0]
        raise Unavailable(f"cannot listen on {host}:{port}: {reason}")
    server.stop()  # type: ignore[no-untyped-call]
    try:
        async with asyncio.timeout(limits.SHUTDOWN_GRACE_S):
            await serving
    except TimeoutError:
        _LOG.warning("requests_cut_off", after_s=limits.SHUTDOWN_GRACE_S)
