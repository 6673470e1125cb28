"""Bounds of planning."""

from typing import Final

SIMULATION_COMPUTING_S: Final = 3.0  # of one core, for a request that does not say how many runs it wants
SIMULATION_COMPUTING_S_MAX: Final = 15.0
SIMULATION_REQUESTS_MAX: Final = 20_000_000
SIMULATION_BATCH_MAX: Final = 200_000
SIMULATION_DAYS_MAX: Final = 3_660
SIMULATION_CHANGES_MAX: Final = 100
SIMULATION_POLICIES_MAX: Final = 20
SIMULATION_RUNS_MAX: Final = 10_000
