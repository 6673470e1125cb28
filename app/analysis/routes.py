"""The status API. Needs the dependency `analysis: AnalysisService`."""

from datetime import datetime
from typing import Any, Final

from litestar import Response, get

from app.access.guards import requires
from app.access.model import Scope
from app.analysis.model import Status
from app.analysis.service import AnalysisService


@get("/experiments/{key:str}/status", guards=[requires(Scope.READ)])
async def experiment_status(
    key: str, analysis: AnalysisService, at: datetime | None = None
) -> Response[Status]:
    """Read how an experiment is doing: allocation now and over time, and per variant what is known.

    With `at`, what was known then: the newest status kept that is not after it; 404 before the first.
    """
    if at is None:
        return Response(await analysis.status(key))
    # As it was kept: fields that came later are not in it.
    kept: Any = await analysis.status_at(key, at)
    return Response(kept)


ROUTES: Final = [experiment_status]
