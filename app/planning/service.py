"""Use cases of planning."""

from functools import partial

from app.core.computing import Computing
from app.planning import limits
from app.planning.model import Simulation, SimulationResult, checked, run


class PlanningService:
    """Calculations of bounded length, off the event loop."""

    def __init__(self, computing: Computing) -> None:
        self._computing = computing

    async def simulate(self, request: Simulation) -> SimulationResult:
        """Raises InvalidInput naming the field, and Unavailable when too much is being computed."""
        fits = checked(
            request,
            seconds_usual=limits.SIMULATION_COMPUTING_S,
            seconds_max=limits.SIMULATION_COMPUTING_S_MAX,
        )
        return await self._computing.run(partial(run, fits))
