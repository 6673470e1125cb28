"""What operators and their tools ask of any process: `/health`, `/ready`, `/metrics`.

Needs the dependency `readiness: Readiness`, made anew for each request. No API key is asked for: bind to an
address that only the cluster reaches, or have the proxy leave these paths out.
"""

from typing import Final

from litestar import Response, get

from app.core import telemetry
from app.core.health import Readiness


@get("/health", sync_to_thread=False)
def health() -> dict[str, str]:
    """Alive: the process answers. Says nothing about the engines."""
    return {"status": "alive"}


@get("/ready")
async def ready(readiness: Readiness) -> Response[Readiness]:
    """Whether to send traffic here, and what is wrong: 503 when `unready`, 200 when `ready` or `degraded`."""
    return Response(readiness, status_code=503 if readiness.status == "unready" else 200)


@get("/metrics", sync_to_thread=True, media_type=telemetry.CONTENT_TYPE)
def metrics() -> bytes:
    """Metrics of all processes that were started together, in Prometheus' text format."""
    return telemetry.exposition()


ROUTES: Final = [health, ready, metrics]
