"""What operators and their tools ask of any process: `/health`, `/ready`, `/metrics`.

Needs the dependency `readiness: Readings`. None of the three asks for an API key. Without one that
may read, `/ready` and `/metrics` answer less: no details, no names of workers, no experiments, no
shares. On the operations port (`WALD_OPERATIONS_PORT`) they answer everything.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from litestar import Litestar, Request, Response, get
from litestar.di import Provide

from app.core import telemetry
from app.core.health import Readiness
from app.core.http import EXCEPTION_HANDLERS
from app.core.limits import METRICS_S
from app.core.serving import Ending, serve_http
from app.core.settings import Settings
from app.core.shared import Shared

READY_S: Final = 1.0
"""How long an answer of `/ready` is shared."""

Headers = Iterable[tuple[bytes, bytes]]


async def _everyone(_: Headers) -> bool:
    return True


class Readings:
    """What a process measures of itself, at most once a second for all callers.

    `reads_all` says whether a caller with these headers may read everything; by default all may.
    """

    def __init__(
        self,
        readiness: Callable[[], Awaitable[Readiness]],
        reads_all: Callable[[Headers], Awaitable[bool]] = _everyone,
    ) -> None:
        self.readiness: Final = Shared(readiness, max_age_s=READY_S)
        self.metrics: Final = Shared(telemetry.expositions, max_age_s=METRICS_S)
        self.reads_all: Final = reads_all

    def for_everyone(self) -> "Readings":
        """Return the same readings, which show all callers everything."""
        shared = Readings.__new__(Readings)
        shared.__dict__.update(self.__dict__ | {"reads_all": _everyone})
        return shared


@get("/health", sync_to_thread=False)
def health() -> dict[str, str]:
    """Answer while the process is alive. Says nothing about the engines."""
    return {"status": "alive"}


@get("/ready")
async def ready(request: Request[Any, Any, Any], readiness: Readings) -> Response[Readiness]:
    """Say whether to send traffic here: 503 when `unready`, 200 when `ready` or `degraded`.

    With an API key of the scope `read`, also say which worker or loop fails, and why.
    """
    found = await readiness.readiness.get()
    shown = found if await readiness.reads_all(request.scope["headers"]) else found.public()
    return Response(shown, status_code=503 if shown.status == "unready" else 200)


@get("/metrics", media_type=telemetry.CONTENT_TYPE)
async def metrics(request: Request[Any, Any, Any], readiness: Readings) -> bytes:
    """Read the metrics of all processes that were started together, in Prometheus' text format.

    With an API key of the scope `read`, by experiment and variant; without one, sums over them.
    """
    found = await readiness.metrics.get()
    return found.whole if await readiness.reads_all(request.scope["headers"]) else found.public


ROUTES: Final = [health, ready, metrics]


def operations_app(readings: Readings) -> Litestar:
    """Return the three routes alone."""
    return Litestar(
        ROUTES,
        dependencies={"readiness": Provide(lambda: readings, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        logging_config=None,
        openapi_config=None,
    )


@asynccontextmanager
async def operations_port(settings: Settings, readings: Readings, ending: Ending) -> AsyncIterator[None]:
    """Answer on `WALD_OPERATIONS_PORT`, where it is not 0, everything to everyone.

    Raises Unavailable when the address cannot be listened on.
    """
    if not settings.operations_port:
        yield
        return
    app = operations_app(readings.for_everyone())
    host, port = settings.operations_host, settings.operations_port
    serving = asyncio.create_task(serve_http(app, host=host, port=port, ending=ending), name="operations")
    await asyncio.sleep(0)  # in which it listens, or fails to
    if serving.done():
        serving.result()
    try:
        yield
    finally:
        ending.begin()
        await serving
