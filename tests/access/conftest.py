import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.access.service import AccessService
from app.access.store import AccessStore
from app.core.clock import SystemClock


@pytest.fixture
def access(engine: AsyncEngine, valkey: Redis) -> AccessService:
    return AccessService(AccessStore(engine, valkey), SystemClock())
