"""Composition of `wald serve`: one process that answers HTTP."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import psycopg
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import __version__
from app.access.model import Scope
from app.access.refusals import Refusals, refusing_early
from app.access.routes import ROUTES as ACCESS_ROUTES
from app.access.service import AccessService
from app.access.store import AccessStore
from app.allocation.kill_store import KillStore
from app.allocation.kill_switch import KillSwitch
from app.allocation.routes import ROUTES as ALLOCATION_ROUTES
from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore
from app.analysis.planning_routes import ROUTES as POWER_ROUTES
from app.analysis.routes import ROUTES as ANALYSIS_ROUTES
from app.analysis.service import AnalysisService
from app.analysis.store import AnalysisStore
from app.assignment.changes import ROUTES as CHANGES_ROUTES
from app.assignment.changes import ChangeFeed
from app.assignment.commit import ExposureCommit
from app.assignment.hot import HotAssign
from app.assignment.loop import SnapshotKeeper
from app.assignment.routes import ROUTES as ASSIGNMENT_ROUTES
from app.assignment.service import Assigner
from app.assignment.store import StickyStore
from app.core import limits, operations
from app.core.announce import announced
from app.core.clock import Clock, SystemClock
from app.core.computing import Computing
from app.core.health import Check, Readiness, worker_checks
from app.core.http import EXCEPTION_HANDLERS, require_json
from app.core.loops import Loop, Loops
from app.core.openapi import CompletePlugin
from app.core.operations import Readings, operations_port
from app.core.postgres import connect, create_engine
from app.core.requests import behind_proxies, logged_shortcuts, with_request_id
from app.core.serving import ASGIApp, Ending, serve_http
from app.core.settings import Settings
from app.core.shortcut import Shortcut, ShortcutProtocol, with_shortcuts
from app.core.stream import StreamAppender
from app.core.telemetry import SNAPSHOT_AGE
from app.core.valkey import create_client
from app.dashboard.routes import ROUTES as DASHBOARD_ROUTES
from app.evaluation.routes import ROUTES as EVALUATION_ROUTES
from app.evaluation.service import EvaluationService
from app.evaluation.store import EvaluationStore
from app.experiments.routes import ROUTES as EXPERIMENT_ROUTES
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.feedback.commit import SignalsCommit
from app.feedback.hot import HotFeedback
from app.feedback.lag import LedgerLag
from app.feedback.routes import ROUTES as FEEDBACK_ROUTES
from app.feedback.service import FeedbackService
from app.planning.routes import ROUTES as PLANNING_ROUTES
from app.planning.service import PlanningService
from app.rollouts.routes import ROUTES as ROLLOUT_ROUTES
from app.rollouts.service import RolloutService
from app.rollouts.store import RolloutStore
from app.webhooks.destination import NetworkPolicy
from app.webhooks.routes import ROUTES as WEBHOOK_ROUTES
from app.webhooks.service import WebhookService
from app.webhooks.store import WebhookStore

_JSON_ROUTES: Final = (
    *ACCESS_ROUTES,
    *EXPERIMENT_ROUTES,
    *ASSIGNMENT_ROUTES,
    *CHANGES_ROUTES,
    *FEEDBACK_ROUTES,
    *ALLOCATION_ROUTES,
    *ANALYSIS_ROUTES,
    *WEBHOOK_ROUTES,
    *ROLLOUT_ROUTES,
    *EVALUATION_ROUTES,
    *PLANNING_ROUTES,
    *POWER_ROUTES,
)


async def serve(settings: Settings) -> None:
    """Answer HTTP on `settings.host` and `settings.port` until SIGTERM or SIGINT."""
    ending = Ending()
    ending.listen()
    async with announced(settings, ending), application(settings, ending) as (app, protocol):
        await serve_http(app, host=settings.host, port=settings.port, ending=ending, protocol=protocol)


@asynccontextmanager
async def application(
    settings: Settings, ending: Ending
) -> AsyncIterator[tuple[ASGIApp, type[ShortcutProtocol]]]:
    """The HTTP application and the protocol with its shortcuts, running until the block ends."""
    database_url = settings.database_url
    assert database_url is not None
    assert settings.valkey_url is not None
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        engine = create_engine(database_url)
        stack.push_async_callback(engine.dispose)
        valkey = create_client(settings.valkey_url)
        stack.push_async_callback(valkey.aclose)
        keeper = SnapshotKeeper(settings.valkey_url, clock)
        await keeper.start()
        stack.push_async_callback(keeper.stop)
        exposures = StreamAppender(settings.valkey_url, deadline_s=limits.EXPOSURE_DEADLINE_S)
        await exposures.start()
        stack.push_async_callback(exposures.stop)
        commit = ExposureCommit(exposures, shards=settings.stream_shards)
        stack.push_async_callback(commit.drain)
        signals = []
        for _ in range(limits.FEEDBACK_FLUSHES_MAX):
            appender = StreamAppender(settings.valkey_url, deadline_s=limits.FEEDBACK_DEADLINE_S)
            await appender.start()
            stack.push_async_callback(appender.stop)
            signals.append(appender)
        signals_commit = SignalsCommit(signals, shards=settings.stream_shards)
        stack.push_async_callback(signals_commit.drain)
        chance = random.Random()  # noqa: S311  (of draws: seeded by the system, and as fast as it gets)
        assigner = Assigner(
            keeper, commit, StickyStore(exposures), clock=clock, rng=chance, durability=settings.durability
        )
        access = AccessService(AccessStore(engine, valkey), clock)
        allocation = AllocationService(AllocationStore(engine, valkey), clock)
        experiments = ExperimentService(ExperimentStore(engine), clock, allocation.reallocate)
        feedback = FeedbackService(keeper, signals_commit, clock)
        lag = LedgerLag(engine, valkey, shards=settings.stream_shards)
        policy = NetworkPolicy.of(settings.webhook_allowed_networks, settings.webhook_allowed_ports)
        webhooks = WebhookService(WebhookStore(engine), policy, clock)
        computing = Computing()
        analysis = AnalysisService(experiments, AnalysisStore(engine), lag.events, computing)
        evaluation = EvaluationService(experiments, EvaluationStore(engine), clock, computing)

        async def readiness() -> Readiness:
            return Readiness.of(
                [
                    _snapshot_check(keeper),
                    *await _engine_checks(database_url, valkey, clock),
                    *(
                        Check(f"loop {name}", not loop.error, detail=loop.error or "")
                        for name, loop in loops.health().items()
                    ),
                ]
            )

        readings = Readings(readiness, reads_all=partial(_reads_all, keeper, clock))
        await stack.enter_async_context(operations_port(settings, readings, ending))
        framework = _framework(
            State({"access": keeper, "sessions": access, "refusals": Refusals()}),
            changes=ChangeFeed(keeper, ending, clock),
            access=access,
            assigner=assigner,
            experiment_service=experiments,
            kill_switch=KillSwitch(KillStore(engine, valkey), clock, allocation.reallocate),
            feedback=feedback,
            allocation_service=allocation,
            analysis=analysis,
            webhook_service=webhooks,
            rollout_service=RolloutService(RolloutStore(engine), clock, allocation.reallocate),
            evaluation=evaluation,
            planning=PlanningService(computing),
            readiness=readings,
        )
        assign = HotAssign(assigner)

        async def measure() -> None:
            SNAPSHOT_AGE.set(keeper.age_s)
            assigner.counter.flush()
            assign.durations.flush()

        loops = Loops([Loop("metrics", measure, pause_s=limits.METRICS_S)], clock=clock, random=chance)
        stack.push_async_callback(measure)
        await stack.enter_async_context(loops)

        yield _served(framework, keeper, settings, assign, HotFeedback(feedback, keeper, clock))


def _served(
    framework: Litestar, keeper: SnapshotKeeper, settings: Settings, *shortcuts: Shortcut
) -> tuple[ASGIApp, type[ShortcutProtocol]]:
    """The framework with what stands before it, and the protocol with its shortcuts."""
    app = refusing_early(framework, framework.state.refusals, keeper)
    app = with_request_id(app, access_log=settings.access_log)
    protocol = logged_shortcuts if settings.access_log else with_shortcuts
    return behind_proxies(app, settings.trusted_proxies), protocol(*shortcuts)


def _framework(state: State, **dependencies: Any) -> Litestar:
    """Litestar with every documented route; a dependency that is a function is called for each request.

    No dependency may be called like a field of a body: Litestar would answer 500 where that field is wrong.
    """
    return Litestar(
        [
            Router("/", route_handlers=_JSON_ROUTES, before_request=require_json),
            Router("/", route_handlers=operations.ROUTES, security=[{}], tags=["operations"]),
            *DASHBOARD_ROUTES,
        ],
        state=state,
        dependencies={name: _provided(dependency) for name, dependency in dependencies.items()},
        exception_handlers=EXCEPTION_HANDLERS,
        request_max_body_size=limits.BODY_BYTES_MAX,
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="Wald",
            version=__version__,
            description="Experimentation and bandit allocation for online evaluation of LLM outputs.",
            path="/openapi",
            render_plugins=[CompletePlugin(path="/openapi.json")],
            use_handler_docstrings=True,
        ),
    )


def _provided(dependency: Any) -> Provide:
    if asyncio.iscoroutinefunction(dependency):
        return Provide(dependency)
    return Provide(lambda: dependency, sync_to_thread=False)


async def _reads_all(keeper: SnapshotKeeper, clock: Clock, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the caller of `/ready` and `/metrics` may read everything."""
    return keeper.keyring is not None and keeper.keyring.admits(headers, Scope.READ, clock.now_ms())


def _snapshot_check(keeper: SnapshotKeeper) -> Check:
    """Critical until something was loaded; an old snapshot still serves."""
    loaded = keeper.snapshot.signer is not None and keeper.keyring is not None
    detail = f"{keeper.error}; last current {keeper.age_s:.1f} s ago" if keeper.error else ""
    return Check("snapshot", loaded and not keeper.error, critical=not loaded, detail=detail)


async def _engine_checks(database_url: str, valkey: Redis, clock: Clock) -> list[Check]:
    """Without Valkey feedback is refused, which is critical; without PostgreSQL the streams hold it."""
    return [
        *await asyncio.gather(
            _check("valkey", _ping(valkey), critical=True), _check("postgres", _connect(database_url))
        ),
        *await _worker_checks(valkey, clock),
    ]


async def _check(name: str, attempt: Awaitable[object], *, critical: bool = False) -> Check:
    try:
        async with asyncio.timeout(limits.READY_CHECK_S):
            await attempt
    except (RedisError, psycopg.Error, OSError, TimeoutError) as error:
        detail = str(error).partition("\n")[0] or f"no answer within {limits.READY_CHECK_S:g} s"
        return Check(name, ok=False, critical=critical, detail=detail)
    return Check(name, ok=True, critical=critical)


async def _ping(valkey: Redis) -> None:
    await valkey.ping()


async def _connect(database_url: str) -> None:
    """On a connection of its own: giving up a query on one of the pool takes seconds."""
    await (await connect(database_url)).close()


async def _worker_checks(valkey: Redis, clock: Clock) -> list[Check]:
    with suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(limits.READY_CHECK_S):
            return await worker_checks(valkey, clock)
    return [Check("worker", ok=False, detail="not known without Valkey")]
