from collections.abc import AsyncIterator

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.access.model import Scope
from app.core.clock import SystemClock
from app.core.computing import Computing
from app.evaluation.routes import ROUTES
from app.evaluation.service import EvaluationService
from app.evaluation.store import EvaluationStore
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from tests.support.api import KEYS, api, bearer, keyring_of_scopes


@pytest.fixture
def experiments(engine: AsyncEngine) -> ExperimentService:
    async def ignore_change(_: int) -> None: ...

    return ExperimentService(ExperimentStore(engine), SystemClock(), ignore_change)


@pytest.fixture
async def client(engine: AsyncEngine, experiments: ExperimentService) -> AsyncIterator[httpx2.AsyncClient]:
    evaluation = EvaluationService(experiments, EvaluationStore(engine), SystemClock(), Computing())
    async with api(ROUTES, {"evaluation": evaluation}, keyring_of_scopes()) as client:
        client.headers.update(bearer(KEYS[Scope.READ]))
        yield client
