from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.clock import SystemClock
from app.core.postgres import create_engine
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def announced() -> list[int]:
    """The ids that were handed to `on_change`, in order."""
    return []


@pytest.fixture
def experiments(engine: AsyncEngine, announced: list[int]) -> ExperimentService:
    async def on_change(experiment_id: int) -> None:
        announced.append(experiment_id)

    return ExperimentService(ExperimentStore(engine), SystemClock(), on_change)
