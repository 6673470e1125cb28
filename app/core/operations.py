"""Endpoints of every process for operators: `/health`, `/ready`, `/metrics`.

Needs the dependency `readiness: Readings`. None of them requires an API key. Without a key that may
read, `/ready` and `/metrics` leave out details, names of workers, experiments and shares. On the
operations port (`WALD_OPERATIONS_PORT`) they show everything.
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
"""Time for which callers of `/ready` share one answer."""

Headers = Iterable[tuple[bytes, bytes]]


async def _everyone(_: Headers) -> bool:
    return True


class Readings:
    """Measurements of a process, taken at most once a second for all callers.

    `reads_all` returns whether a caller with these headers may read everything. By default all may.
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
        """Return the same readings, with everything shown to all callers."""
        shared = Readings.__new__(Readings)
        shared.__dict__.update(self.__dict__ | {"reads_all": _everyone})
        return shared


@get("/health", sync_to_thread=False)
def health() -> dict[str, str]:
    """Answer while the process is alive, whatever the state of the engines."""
    return {"status": "alive"}


@get("/ready")
async def ready(request: Request[Any, Any, Any], readiness: Readings) -> Response[Readiness]:
    """Say whether to send traffic here: 503 when `unready`, 200 when `ready` or `degraded`.

    With an API key of the scope `read`, also say which worker or loop fails, and why.
    """
    state = await readiness.readiness.get()
    shown = state if await readiness.reads_all(request.scope["headers"]) else state.public()
    return Response(shown, status_code=503 if shown.status == "unready" else 200)


@get("/metrics", media_type=telemetry.CONTENT_TYPE)
async def metrics(request: Request[Any, Any, Any], readiness: Readings) -> bytes:
    """Read the metrics of all processes that were started together, in Prometheus' text format.

    With an API key of the scope `read`, by experiment and variant; without one, sums over them.
    """
    texts = await readiness.metrics.get()
    return texts.whole if await readiness.reads_all(request.scope["headers"]) else texts.public


ROUTES: Final = [health, ready, metrics]


def operations_app(readings: Readings) -> Litestar:
    """Return an application with these three routes only."""
    return Litestar(
        ROUTES,
        dependencies={"readiness": Provide(lambda: readings, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        logging_config=None,
        openapi_config=None,
    )


@asynccontextmanager
async def operations_port(settings: Settings, readings: Readings, ending: Ending) -> AsyncIterator[None]:
    """Serve the routes on `WALD_OPERATIONS_PORT`, unless it is 0, and show everything to everyone.

    Raises Unavailable if the address is in use or invalid.
    """
    if not settings.operations_port:
        yield
        return
    app = operations_app(readings.for_everyone())
    host, port = settings.operations_host, settings.operations_port
    serving = asyncio.create_task(serve_http(app, host=host, port=port, ending=ending), name="operations")
    await asyncio.sleep(0)  # so that it begins to listen, or fails
    if serving.done():
        serving.result()
    try:
        yield
    finally:
        ending.begin()
        await serving
