from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.access.service import AccessService
from app.access.store import AccessStore
from app.allocation.loop import AllocationLoops
from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore
from app.core.clock import SystemClock
from app.core.valkey import create_client
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore


@pytest.fixture
def store(engine: AsyncEngine, valkey: Redis) -> AllocationStore:
    return AllocationStore(engine, valkey)


@pytest.fixture
def allocation(store: AllocationStore) -> AllocationService:
    return AllocationService(store, SystemClock())


@pytest.fixture
def allocation_loops(allocation: AllocationService, engine: AsyncEngine, valkey: Redis) -> AllocationLoops:
    return AllocationLoops(allocation, AccessService(AccessStore(engine, valkey), SystemClock()))


@pytest.fixture
def experiments(engine: AsyncEngine) -> ExperimentService:
    """Changes are committed and left due: each test says when they are published."""

    async def leave_it_due(experiment_id: int) -> None: ...

    return ExperimentService(ExperimentStore(engine), SystemClock(), leave_it_due)


@pytest.fixture
async def unreachable(engine: AsyncEngine, tmp_path) -> AsyncIterator[AllocationService]:
    """Allocation on the same database, with a Valkey that is not there."""
    client = create_client(f"unix://{tmp_path}/nobody.sock")
    yield AllocationService(AllocationStore(engine, client), SystemClock())
    await client.aclose()
