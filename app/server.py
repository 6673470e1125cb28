"""Composition of `wald serve`: one process that answers HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from random import SystemRandom
from typing import Any, Final

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.access.routes import ROUTES as ACCESS_ROUTES
from app.access.service import AccessService
from app.access.store import AccessStore
from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore
from app.core import limits, operations, telemetry
from app.core.clock import SystemClock
from app.core.health import Check, Readiness, worker_checks
from app.core.http import EXCEPTION_HANDLERS, require_json
from app.core.loops import Loop, Loops
from app.core.postgres import create_engine
from app.core.serving import ASGIApp, Ending, serve_http
from app.core.settings import Settings
from app.core.valkey import create_client
from app.experiments.routes import ROUTES as EXPERIMENT_ROUTES
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore


async def serve(settings: Settings) -> None:
    """Answer HTTP on `settings.host` and `settings.port` until SIGTERM or SIGINT."""
    ending = Ending()
    ending.listen()
    async with application(settings, ending) as app:
        await serve_http(app, host=settings.host, port=settings.port, ending=ending)


@asynccontextmanager
async def application(settings: Settings, ending: Ending) -> AsyncIterator[ASGIApp]:
    """The whole HTTP application on engines that are named by `settings`, running until the block ends."""
    assert settings.database_url is not None
    assert settings.valkey_url is not None
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        engine = create_engine(settings.database_url)
        stack.push_async_callback(engine.dispose)
        valkey = create_client(settings.valkey_url)
        stack.push_async_callback(valkey.aclose)

        access = AccessService(AccessStore(engine, valkey), clock)
        allocation = AllocationService(AllocationStore(engine, valkey))
        experiments = ExperimentService(ExperimentStore(engine), clock, allocation.reallocate)
