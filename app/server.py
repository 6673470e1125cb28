"""Composition of `wald serve`: one process that answers HTTP."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app import __version__
from app.access.model import Scope
from app.access.refusals import Refusals, refusing_early
from app.access.routes import ROUTES as ACCESS_ROUTES
from app.access.service import AccessService
from app.access.store import AccessStore
from app.allocation import limits as allocation_limits
from app.allocation.kill_store import KillStore
from app.allocation.kill_switch import KillSwitch
from app.allocation.kill_watch import KillWatch
from app.allocation.routes import ROUTES as ALLOCATION_ROUTES
from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore
from app.analysis.routes import ROUTES as ANALYSIS_ROUTES
from app.analysis.service import AnalysisService
from app.analysis.store import AnalysisStore
from app.assignment.changes import ROUTES as CHANGES_ROUTES
from app.assignment.changes import ChangeFeed
from app.assignment.commit import ExposureCommit
from app.assignment.fast_path import AssignFastPath
from app.assignment.limits import EXPOSURE_DEADLINE_S, SNAPSHOT_FILE_CHECK_S
from app.assignment.published_store import PublishedStore
from app.assignment.routes import ROUTES as ASSIGNMENT_ROUTES
from app.assignment.service import Assigner
from app.assignment.snapshot_file import SnapshotFile, installation_of
from app.assignment.snapshot_keeper import SnapshotKeeper
from app.assignment.snapshot_saver import SnapshotSaver
from app.assignment.store import StickyStore
from app.core import operations, process
from app.core.announce import announced
from app.core.clock import Clock, SystemClock
from app.core.computing import Computing
from app.core.errors import Unavailable
from app.core.fast_path import FastPath, FastPathProtocol, with_fast_paths
from app.core.health import Check, Readiness, worker_checks
from app.core.http import EXCEPTION_HANDLERS, require_json
from app.core.limits import BODY_BYTES_MAX, CLOCK_SYNC_S, METRICS_S, READY_CHECK_S
from app.core.loops import Loop, Loops
from app.core.openapi import CompletePlugin
from app.core.operations import Readings, operations_port
from app.core.outages import OUTAGES
from app.core.postgres import connect, create_engine
from app.core.requests import behind_proxies, logged_fast_paths, with_request_id
from app.core.serving import ASGIApp, Ending, serve_http
from app.core.settings import Settings
from app.core.stream import StreamAppender, refusal
from app.core.telemetry import DEGRADED, SNAPSHOT_AGE
from app.core.timekeeping import TimeKeeper
from app.core.valkey import create_client
from app.dashboard.review_routes import ROUTES as REVIEW_PAGES
from app.dashboard.routes import ROUTES as DASHBOARD_ROUTES
from app.evaluation.routes import ROUTES as EVALUATION_ROUTES
from app.evaluation.service import EvaluationService
from app.evaluation.store import EvaluationStore
from app.experiments.routes import ROUTES as EXPERIMENT_ROUTES
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.feedback.commit import SignalsCommit
from app.feedback.fast_path import FeedbackFastPath
from app.feedback.limits import FEEDBACK_DEADLINE_S, FEEDBACK_FLUSHES_MAX
from app.feedback.routes import ROUTES as FEEDBACK_ROUTES
from app.feedback.service import FeedbackService
from app.judging.registry_service import RegistryService
from app.judging.report_service import ReportService
from app.judging.routes import ROUTES as JUDGING_ROUTES
from app.judging.rule_service import RuleService
from app.judging.store import JudgingStores
from app.judging.trust_service import TrustService
from app.ledger.lag import LedgerLag
from app.ledger.signals.seen_store import SeenSignalsStore
from app.planning.power_routes import ROUTES as POWER_ROUTES
from app.planning.routes import ROUTES as PLANNING_ROUTES
from app.planning.service import PlanningService
from app.quality.routes import ROUTES as QUALITY_ROUTES
from app.quality.service import QualityService
from app.quality.store import QualityStore
from app.responses.commit import ResponseCommit
from app.responses.limits import RESPONSES_DEADLINE_S, RESPONSES_FLUSHES_MAX
from app.responses.reading_service import ResponseReader
from app.responses.reading_store import ReadingStore as ResponseReadingStore
from app.responses.routes import ROUTES as RESPONSE_ROUTES
from app.responses.service import ResponseService
from app.responses.store import ResponseStore
from app.reviews.claim_store import ClaimStore
from app.reviews.import_service import ImportService
from app.reviews.reading_service import ReviewReader
from app.reviews.reading_store import ReadingStore
from app.reviews.routes import ROUTES as REVIEW_ROUTES
from app.reviews.service import ReviewService
from app.reviews.store import ReviewStore
from app.rollouts.routes import ROUTES as ROLLOUT_ROUTES
from app.rollouts.service import RolloutService
from app.rollouts.store import RolloutStore, metric_readers
from app.start import Start
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
    *JUDGING_ROUTES,
    *EVALUATION_ROUTES,
    *QUALITY_ROUTES,
    *PLANNING_ROUTES,
    *POWER_ROUTES,
    *RESPONSE_ROUTES,
    *REVIEW_ROUTES,
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
) -> AsyncIterator[tuple[ASGIApp, type[FastPathProtocol]]]:
    """Run the HTTP application and its protocol with fast paths until the block ends."""
    database_url = settings.database_url
    assert database_url is not None
    assert settings.valkey_url is not None
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        timekeeper = TimeKeeper(database_url, process.NAME)
        await timekeeper.start()
        engine = create_engine(database_url)
        stack.push_async_callback(engine.dispose)
        valkey = create_client(settings.valkey_url)
        stack.push_async_callback(valkey.aclose)
        keeper, saver = _keeper(settings, engine, valkey, clock, stack)
        access = AccessService(AccessStore(engine, valkey), clock, keeper.adopt_access)
        rng = random.Random()  # noqa: S311 - for draws; the system seeds it
        start = Start(settings, engine, access, ending)
        starting = await stack.enter_async_context(start.begun(clock, rng))
        await keeper.start()
        stack.push_async_callback(keeper.stop)
        exposures, commit, signals_commit, response_commit = await _commits(settings, stack)
        assigner = Assigner(
            keeper, commit, StickyStore(exposures), clock=clock, rng=rng, durability=settings.durability
        )
        allocation = AllocationService(AllocationStore(engine, valkey), clock, keeper.adopt_experiment)
        experiments = ExperimentService(
            ExperimentStore(engine, metric_readers),
            clock,
            allocation.reallocate,
            SeenSignalsStore(engine).received,
        )
        feedback = FeedbackService(keeper, signals_commit, clock)
        lag = LedgerLag(engine, valkey, shards=settings.stream_shards)
        policy = NetworkPolicy.of(settings.webhook_allowed_networks, settings.webhook_allowed_ports)
        webhooks = WebhookService(WebhookStore(engine), policy, clock)
        computing = Computing()
        rollouts = RolloutService(RolloutStore(engine), clock, allocation.reallocate)
        analysis = AnalysisService(
            experiments, AnalysisStore(engine), lag.events, computing, rollouts.statuses
        )
        evaluation = EvaluationService(experiments, EvaluationStore(engine), clock, computing)

        judging = JudgingStores.of(engine)
        trust = TrustService(judging, ReviewStore(engine), clock)
        switch = KillSwitch(KillStore(engine, valkey), clock, allocation.reallocate, keeper)
        watch = KillWatch(database_url, keeper)

        async def readiness() -> Readiness:
            return Readiness.of(
                [
                    *start.checks(),
                    _snapshot_check(keeper),
                    Check("snapshot file", not saver.error, detail=saver.error or ""),
                    timekeeper.check(),
                    *await _engine_checks(database_url, valkey, clock, shards=settings.stream_shards),
                    *(
                        Check(f"loop {name}", not loop.error, detail=loop.error or "")
                        for name, loop in (starting.health() | loops.health()).items()
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
            kill_switch=switch,
            feedback=feedback,
            allocation_service=allocation,
            analysis=analysis,
            webhook_service=webhooks,
            rollout_service=rollouts,
            judge_registry=RegistryService(judging.registry, clock),
            judging_rules=RuleService(judging, experiments.get, clock),
            judge_trust=trust,
            judge_reports=ReportService(judging, trust, clock),
            evaluation=evaluation,
            quality=QualityService(experiments, QualityStore(engine)),
            **_reviews(engine, experiments, clock),
            planning=PlanningService(computing),
            readiness=readings,
            response_service=ResponseService(keeper, response_commit, clock),
            response_reader=ResponseReader(ResponseReadingStore(engine), experiments, clock),
        )
        assign = AssignFastPath(assigner)

        async def measure() -> None:
            SNAPSHOT_AGE.set(keeper.age_s)
            assigner.counter.flush()
            assign.durations.flush()

        loops = Loops(
            [
                Loop("metrics", measure, pause_s=METRICS_S),
                Loop("kills", watch.run),
                Loop("kills made here", switch.spread, pause_s=allocation_limits.KILL_RECORD_INTERVAL_S),
                Loop("snapshot file", saver.save_if_due, pause_s=SNAPSHOT_FILE_CHECK_S),
                Loop("clock", timekeeper.run, pause_s=CLOCK_SYNC_S),
            ],
            clock=clock,
            random=rng,
        )
        stack.push_async_callback(measure)
        await stack.enter_async_context(loops)

        yield _served(framework, keeper, settings, assign, FeedbackFastPath(feedback, keeper, clock))


def _reviews(engine: AsyncEngine, experiments: ExperimentService, clock: Clock) -> dict[str, Any]:
    """Return the services of reviews by the names of their dependencies."""
    store, claims, reading = ReviewStore(engine), ClaimStore(engine), ReadingStore(engine)
    responses = ResponseStore(engine)
    return {
        "review_service": ReviewService((store, claims, reading, responses), experiments, clock),
        "review_reader": ReviewReader(store, reading, responses, experiments),
        "review_import": ImportService(claims, responses, experiments, clock),
    }


async def _commits(
    settings: Settings, stack: AsyncExitStack
) -> tuple[StreamAppender, ExposureCommit, SignalsCommit, ResponseCommit]:
    """Start the group commits of events. The stack drains them at its end."""
    assert settings.valkey_url is not None
    exposures = StreamAppender(settings.valkey_url, deadline_s=EXPOSURE_DEADLINE_S)
    signals = [
        StreamAppender(settings.valkey_url, deadline_s=FEEDBACK_DEADLINE_S)
        for _ in range(FEEDBACK_FLUSHES_MAX)
    ]
    responses = [
        StreamAppender(settings.valkey_url, deadline_s=RESPONSES_DEADLINE_S)
        for _ in range(RESPONSES_FLUSHES_MAX)
    ]
    for appender in (exposures, *signals, *responses):
        stack.push_async_callback(appender.stop)
    # Together, because each waits for a Valkey that hangs.
    await asyncio.gather(*(appender.start() for appender in (exposures, *signals, *responses)))
    commit = ExposureCommit(exposures, shards=settings.stream_shards)
    stack.push_async_callback(commit.drain)
    signals_commit = SignalsCommit(signals, shards=settings.stream_shards)
    stack.push_async_callback(signals_commit.drain)
    response_commit = ResponseCommit(responses)
    stack.push_async_callback(response_commit.drain)
    return exposures, commit, signals_commit, response_commit


def _served(
    framework: Litestar, keeper: SnapshotKeeper, settings: Settings, *fast_paths: FastPath
) -> tuple[ASGIApp, type[FastPathProtocol]]:
    """Wrap the framework, and return it with the protocol that has the fast paths."""
    app = refusing_early(framework, framework.state.refusals, lambda: keeper.keyring)
    app = with_request_id(app, access_log=settings.access_log)
    protocol = logged_fast_paths if settings.access_log else with_fast_paths
    return behind_proxies(app, settings.trusted_proxies), protocol(*fast_paths)


def _framework(state: State, **dependencies: Any) -> Litestar:
    """Return Litestar with all routes. It calls a dependency that is a function for each request.

    A dependency must not have the name of a body's field: Litestar would answer 500 for a bad value
    of that field.
    """
    return Litestar(
        [
            Router("/", route_handlers=_JSON_ROUTES, before_request=require_json),
            Router("/", route_handlers=operations.ROUTES, security=[{}], tags=["operations"]),
            *DASHBOARD_ROUTES,
            *REVIEW_PAGES,
        ],
        state=state,
        dependencies={name: _provided(dependency) for name, dependency in dependencies.items()},
        exception_handlers=EXCEPTION_HANDLERS,
        request_max_body_size=BODY_BYTES_MAX,
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
    """Return whether the caller of `/ready` and `/metrics` may read everything."""
    return keeper.keyring is not None and keeper.keyring.admits(headers, Scope.READ, clock.now_ms())


def _snapshot_check(keeper: SnapshotKeeper) -> Check:
    """Return the check of the snapshot. It is critical until everything was loaded once."""
    detail = ""
    if keeper.error:
        age = f"; loaded from {keeper.source}, last current {keeper.age_s:.1f} s ago" if keeper.loaded else ""
        detail = f"{keeper.error}{age}"
    return Check("snapshot", keeper.loaded and not keeper.error, critical=not keeper.loaded, detail=detail)


async def _engine_checks(database_url: str, valkey: Redis, clock: Clock, *, shards: int) -> list[Check]:
    """Return checks of engines and workers. Only Valkey is critical: `/feedback` needs it."""
    of_valkey, of_postgres, of_workers = await asyncio.gather(
        _check("valkey", _takes_events(valkey, shards), critical=True),
        _check("postgres", _connect(database_url)),
        _worker_checks(valkey, clock),
    )
    return [of_valkey, of_postgres, *of_workers]


def _keeper(
    settings: Settings, engine: AsyncEngine, valkey: Redis, clock: Clock, stack: AsyncExitStack
) -> tuple[SnapshotKeeper, SnapshotSaver]:
    """Return the keeper of the snapshot, which is not started yet, and its saver."""
    assert settings.database_url is not None
    assert settings.valkey_url is not None
    folder = settings.snapshot_dir or settings.data_dir / "snapshot"
    file = SnapshotFile(folder, installation_of(settings.valkey_url, settings.database_url))
    stack.callback(file.unlock)
    database = PublishedStore(engine, AccessStore(engine, valkey))
    keeper = SnapshotKeeper(settings.valkey_url, clock, database=database, file=file)
    return keeper, SnapshotSaver(keeper, file, clock)


async def _check(name: str, attempt: Awaitable[object], *, critical: bool = False) -> Check:
    try:
        async with asyncio.timeout(READY_CHECK_S):
            await attempt
    except (*OUTAGES, Unavailable) as error:
        detail = str(error).partition("\n")[0] or f"no answer within {READY_CHECK_S:g} s"
        check = Check(name, ok=False, critical=critical, detail=detail)
    else:
        check = Check(name, ok=True, critical=critical)
    DEGRADED.labels(name).set(not check.ok)
    return check


async def _takes_events(valkey: Redis, shards: int) -> None:
    """Raise Unavailable if Valkey answers but refuses the events of `/feedback`."""
    refused = await refusal(valkey, shards=shards)
    if refused:
        raise Unavailable(refused)


async def _connect(database_url: str) -> None:
    """Connect outside the pool: giving up a query of the pool takes seconds."""
    await (await connect(database_url)).close()


async def _worker_checks(valkey: Redis, clock: Clock) -> list[Check]:
    with suppress(*OUTAGES):
        async with asyncio.timeout(READY_CHECK_S):
            return await worker_checks(valkey, clock)
    return [Check("worker", ok=False, detail="not known without Valkey")]
