from datetime import UTC, datetime

import numpy as np
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.postgres import psycopg_dsn
from app.experiments.model import Experiment
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.rollouts.service import RolloutService
from app.rollouts.store import RolloutStore
from tests.rollouts.stored import DEFINITION
from tests.support.clocks import SettableClock


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)


@pytest.fixture
async def database_url(module_database: str) -> str:
    """Without experiments and all that belongs to them."""
    async with await psycopg.AsyncConnection.connect(psycopg_dsn(module_database)) as connection:
        await connection.execute(
            "TRUNCATE experiments, metric_totals, stream_positions, webhook_messages RESTART IDENTITY CASCADE"
        )
    return module_database


@pytest.fixture
def clock() -> SettableClock:
    """Begins now: how old totals are is told by PostgreSQL's clock."""
    return SettableClock(datetime.now(UTC))


@pytest.fixture
def announced() -> list[int]:
    """The ids of experiments whose shares changed, in order."""
    return []


@pytest.fixture
def rollouts(engine: AsyncEngine, clock: SettableClock, announced: list[int]) -> RolloutService:
    async def on_change(experiment_id: int) -> None:
        announced.append(experiment_id)

    return RolloutService(RolloutStore(engine), clock, on_change)


@pytest.fixture
async def experiment(engine: AsyncEngine, clock: SettableClock) -> Experiment:
    """Running, with an error rate and a latency."""

    async def leave_it_due(experiment_id: int) -> None: ...

    experiments = ExperimentService(ExperimentStore(engine), clock, leave_it_due)
    await experiments.create(DEFINITION)
    return await experiments.start(DEFINITION.key)
