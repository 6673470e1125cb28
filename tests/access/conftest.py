from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.access.service import AccessService
from app.access.store import AccessStore
from app.core.clock import SystemClock
from app.core.postgres import create_engine
from app.core.valkey import create_client


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Redis]:
    client = create_client(valkey_url)
    yield client
    await client.aclose()


@pytest.fixture
def access(engine: AsyncEngine, valkey: Redis) -> AccessService:
    return AccessService(AccessStore(engine, valkey), SystemClock())
