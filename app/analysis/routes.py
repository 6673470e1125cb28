"""The status API. Needs the dependency `analysis: AnalysisService`."""

from typing import Final

from litestar import get

from app.access.guards import requires
from app.access.model import Scope
from app.analysis.model import Status
from app.analysis.service import AnalysisService


@get("/experiments/{key:str}/status", guards=[requires(Scope.READ)])
async def experiment_status(key: str, analysis: AnalysisService) -> Status:
    """Read how an experiment is doing: allocation now and over time, and per variant what is known."""
    return await analysis.status(key)


ROUTES: Final = [experiment_status]
