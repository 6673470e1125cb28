"""Planning calculators over HTTP. Needs the dependency `planning: PlanningService`."""

from typing import Final

from litestar import post

from app.access.guards import requires
from app.access.model import Scope
from app.planning.model import Simulation, SimulationResult
from app.planning.service import PlanningService


@post("/simulate", guards=[requires(Scope.READ)], status_code=200)
async def simulate(data: Simulation, planning: PlanningService) -> SimulationResult:
    """Try policies on traffic like yours before the first request: regret, and which policy to use.

    503 while as many computations are running as one server process allows.
    """
    return await planning.simulate(data)


ROUTES: Final = [simulate]
