from collections.abc import AsyncIterator

import httpx2
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.access.model import Scope
from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore
from app.analysis.routes import ROUTES
from app.analysis.service import AnalysisService
from app.analysis.store import AnalysisStore
from app.core.clock import SystemClock
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from tests.support.api import KEYS, api, bearer, keyring_of_scopes


@pytest.fixture
def allocation(engine: AsyncEngine, valkey: Redis) -> AllocationService:
    return AllocationService(AllocationStore(engine, valkey), SystemClock())


@pytest.fixture
def experiments(engine: AsyncEngine, allocation: AllocationService) -> ExperimentService:
    return ExperimentService(ExperimentStore(engine), SystemClock(), allocation.reallocate)


class Lag:
    """What the ledger would say: a number, or the error that keeps it from knowing."""

    def __init__(self) -> None:
        self.answer: int | Exception = 0

    async def __call__(self) -> int:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def lag() -> Lag:
    return Lag()


@pytest.fixture
async def client(
    engine: AsyncEngine, experiments: ExperimentService, lag: Lag
) -> AsyncIterator[httpx2.AsyncClient]:
    analysis = AnalysisService(experiments, AnalysisStore(engine), lag)
    async with api(ROUTES, {"analysis": analysis}, keyring_of_scopes()) as client:
        client.headers.update(bearer(KEYS[Scope.READ]))
        yield client
