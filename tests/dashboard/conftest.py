"""The pages on real engines: services, stores and keys as in a server, without the rest of it."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import NamedTuple

import httpx2
import pytest
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide

from app.access.model import KeyKind, KeyRing
from app.access.service import AccessService, KeyRequest
from app.access.store import AccessStore
from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore
from app.analysis.service import AnalysisService
from app.analysis.store import AnalysisStore
from app.core.clock import SystemClock
from app.core.http import EXCEPTION_HANDLERS
from app.core.postgres import create_engine
from app.core.valkey import create_client
from app.dashboard.routes import ROUTES
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.quality.service import QualityService
from app.quality.store import QualityStore


class Site(NamedTuple):
    """A browser without cookies, and what stands behind the pages."""

    browser: httpx2.AsyncClient
    app: Litestar
    access: AccessService
    store: AccessStore
    experiments: ExperimentService
    key: str
    key_id: int

    async def load_keys(self) -> None:
        """What the refresh loop of a server does."""
        self.app.state.access.keyring = KeyRing(await self.store.snapshot())

    async def sign_in(self, key: str | None = None) -> httpx2.Response:
        """Send the form."""
        return await self.browser.post("/login", data={"key": key or self.key})


@pytest.fixture
async def site(database_url: str, valkey_url: str) -> AsyncIterator[Site]:
    engine, valkey, clock = create_engine(database_url), create_client(valkey_url), SystemClock()
    store = AccessStore(engine, valkey)
    access = AccessService(store, clock)
    await access.ensure_signing_key()
    stored, key = await access.create(KeyRequest(name="reader", kind=KeyKind.SERVER))
    allocation = AllocationService(AllocationStore(engine, valkey), SystemClock())
    experiments = ExperimentService(ExperimentStore(engine), clock, allocation.reallocate)

    async def no_lag() -> int:
        return 0

    async def no_newer_keys() -> bool:
        return True

    analysis = AnalysisService(experiments, AnalysisStore(engine), no_lag)
    quality = QualityService(experiments, QualityStore(engine))
    app = Litestar(
        ROUTES,
        dependencies={
            "experiment_service": Provide(lambda: experiments, sync_to_thread=False),
            "analysis": Provide(lambda: analysis, sync_to_thread=False),
            "quality": Provide(lambda: quality, sync_to_thread=False),
        },
        state=State({"access": SimpleNamespace(keyring=None, load_access=no_newer_keys), "sessions": access}),
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=None,
    )
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://wald.test") as browser:
        running = Site(browser, app, access, store, experiments, key, stored.id)
        await running.load_keys()
        yield running
    await valkey.aclose()
    await engine.dispose()
