import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.clock import SystemClock
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore


@pytest.fixture
def announced() -> list[int]:
    """The ids that were handed to `on_change`, in order."""
    return []


@pytest.fixture
def experiments(engine: AsyncEngine, announced: list[int]) -> ExperimentService:
    async def on_change(experiment_id: int) -> None:
        announced.append(experiment_id)

    return ExperimentService(ExperimentStore(engine), SystemClock(), on_change)
