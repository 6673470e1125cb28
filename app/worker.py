"""Composition of `wald worker`: everything outside requests."""

import asyncio
import random
from collections import ChainMap
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.access.model import KeyRing, Scope, credential
from app.access.service import AccessService
from app.access.store import AccessStore
from app.allocation import limits as allocation_limits
from app.allocation.kill_store import KillStore
from app.allocation.kill_switch import KillSwitch
from app.allocation.loop import AllocationLoops
from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore
from app.analysis.loop import AnalysisLoops
from app.analysis.service import ReadoutKeeper
from app.analysis.store import AnalysisStore
from app.core.announce import announced
from app.core.clock import Clock, SystemClock, WallClock
from app.core.health import Check, Readiness, beat
from app.core.limits import CLOCK_SYNC_S, READY_CHECK_S, WORKER_BEAT_S
from app.core.loops import Loop, LoopHealth, Loops
from app.core.operations import Readings, operations_app, operations_port
from app.core.outages import OUTAGES
from app.core.postgres import create_engine
from app.core.process import NAME
from app.core.serving import Ending, serve_http
from app.core.settings import Settings
from app.core.shared import Shared
from app.core.stream import StreamAppender
from app.core.telemetry import STREAM_LAG, WATERMARK_AGE
from app.core.timekeeping import TimeKeeper
from app.core.valkey import create_client
from app.feedback.commit import SignalsCommit
from app.feedback.limits import FEEDBACK_DEADLINE_S
from app.judging.dispatch import JudgingDispatcher
from app.judging.judge_holder import JudgeHolder
from app.judging.loop import JudgingLoops
from app.judging.planning_service import Planner
from app.judging.signal_sender import JudgeSignalSender
from app.judging.store import JudgingStores
from app.judging.trust_service import TrustService
from app.ledger.lag import LedgerLag
from app.ledger.limits import BACKFILL_INTERVAL_S, LEDGER_SILENT_S
from app.ledger.loop import Backfills, ledger_loops
from app.responses.loop import response_loops
from app.responses.store import ResponseStore
from app.reviews.claim_store import ClaimStore
from app.reviews.loop import ReviewLoops
from app.reviews.reading_store import ReadingStore
from app.reviews.sample_store import SampleStore
from app.reviews.signal_sender import SignalSender
from app.reviews.signal_store import SignalStore
from app.reviews.store import ReviewStore
from app.rollouts.loop import RolloutLoops
from app.rollouts.service import RolloutService
from app.rollouts.store import RolloutStore
from app.start import Start
from app.webhooks.destination import NetworkPolicy
from app.webhooks.dispatch import Dispatcher
from app.webhooks.loop import WebhookLoops
from app.webhooks.sender import Sender
from app.webhooks.store import WebhookStore


async def work(settings: Settings) -> None:
    """Run all loops until SIGTERM or SIGINT. Answer operators unless `settings.port` is 0."""
    assert settings.database_url is not None
    assert settings.valkey_url is not None
    clock = SystemClock()
    ending = Ending()
    ending.listen()
    async with announced(settings, ending), AsyncExitStack() as stack:
        timekeeper = TimeKeeper(settings.database_url, NAME)
        await timekeeper.start()
        engine, valkey, blocking = _engines(settings, stack)
        access = AccessService(AccessStore(engine, valkey), clock)
        start = Start(settings, engine, access, ending)
        reallocation = AllocationService(AllocationStore(engine, valkey), clock)
        allocation = AllocationLoops(reallocation, access)
        switch = KillSwitch(KillStore(engine, valkey), clock, reallocation.reallocate)
        rollouts = RolloutLoops(RolloutService(RolloutStore(engine), clock, reallocation.reallocate))
        rng = random.Random()  # noqa: S311 - for pauses
        signals = await _signals(settings, stack)
        reviews, judging = _reviews(engine, clock, signals), _judging(engine, clock, signals, stack)
        lag = LedgerLag(engine, valkey, shards=settings.stream_shards)
        analysis = AnalysisLoops(ReadoutKeeper(AnalysisStore(engine), reallocation, lag.events))

        def on_commit(experiment_ids: Iterable[int]) -> None:
            allocation.on_commit(experiment_ids)
            rollouts.on_commit(experiment_ids)

        backfills = Backfills(settings.database_url, on_commit, clock)

        async def measure() -> None:
            STREAM_LAG.set(await lag.events())
            WATERMARK_AGE.set(await lag.watermark_age_s())

        prepared_loops = [
            *ledger_loops(
                shards=settings.stream_shards,
                owner=NAME,
                database_url=settings.database_url,
                valkey=blocking,
                clock=clock,
                on_commit=on_commit,
            ),
            Loop("backfill", backfills.run, pause_s=BACKFILL_INTERVAL_S),
            *response_loops(
                owner=NAME,
                database_url=settings.database_url,
                valkey=blocking,
                clock=clock,
                on_commit=on_commit,
            ),
            *allocation.all(),
            *rollouts.all(),
            Loop("kill switch", switch.record_waiting, pause_s=allocation_limits.KILL_RECORD_INTERVAL_S),
            *analysis.all(),
            *WebhookLoops(_dispatcher(settings, engine, clock, rng)).all(),
            *reviews.all(),
            *judging.all(),
            Loop("lag", measure, pause_s=WORKER_BEAT_S),
            Loop("clock", timekeeper.run, pause_s=CLOCK_SYNC_S),
        ]
        loops = Loops([start.after(loop) for loop in prepared_loops], clock=clock, random=rng)
        starting = await stack.enter_async_context(start.begun(clock, rng))

        def errors() -> dict[str, str]:
            rooms = allocation, rollouts, analysis, reviews, judging, backfills
            of_loops = _failing(starting.health() | loops.health())
            return dict(
                ChainMap(*(room.errors for room in rooms), start.errors(), of_loops, _skew(timekeeper))
            )

        async def heartbeat() -> None:
            await beat(valkey, NAME, errors(), clock)

        pulse = Loop("heartbeat", heartbeat, pause_s=WORKER_BEAT_S)
        await stack.enter_async_context(loops)
        await stack.enter_async_context(Loops([pulse], clock=clock, random=rng))

        async def readiness() -> Readiness:
            failing = {name: error for name, error in errors().items() if name not in start.errors()}
            names = loops.health().keys() | failing.keys()
            others = [
                Check(name, name not in failing, detail=failing.get(name, "")) for name in sorted(names)
            ]
            return Readiness.of([*start.checks(), *others])

        readings = Readings(readiness, reads_all=_key_checker(AccessStore(engine, valkey), clock))
        await stack.enter_async_context(operations_port(settings, readings, ending))
        if settings.port:
            app = operations_app(readings)
            # Not on the port of a server, which would share its requests with us.
            await serve_http(app, host=settings.host, port=settings.port, ending=ending, shared=False)
        else:
            await ending.wait()


def _engines(settings: Settings, stack: AsyncExitStack) -> tuple[AsyncEngine, Redis, Redis]:
    """Open PostgreSQL, Valkey, and Valkey for blocking reads. The stack closes them at its end."""
    assert settings.database_url is not None
    assert settings.valkey_url is not None
    engine = create_engine(settings.database_url)
    stack.push_async_callback(engine.dispose)
    valkey = create_client(settings.valkey_url)
    stack.push_async_callback(valkey.aclose)
    blocking = create_client(settings.valkey_url, socket_timeout=LEDGER_SILENT_S)
    stack.push_async_callback(blocking.aclose)
    return engine, valkey, blocking


def _failing(health: Mapping[str, LoopHealth]) -> dict[str, str]:
    """Return the errors of the loops that do not work, by name."""
    return {name: loop.error for name, loop in health.items() if loop.error}


def _skew(timekeeper: TimeKeeper) -> dict[str, str]:
    """Return the error of this process's clock, if it has one."""
    timely = timekeeper.check()
    return {} if timely.ok else {"clock": timely.detail}


async def _signals(settings: Settings, stack: AsyncExitStack) -> SignalsCommit:
    """Start the group commit of the signals of this worker. The stack ends it."""
    assert settings.valkey_url is not None
    appender = StreamAppender(settings.valkey_url, deadline_s=FEEDBACK_DEADLINE_S)
    stack.push_async_callback(appender.stop)
    await appender.start()
    return SignalsCommit([appender], shards=settings.stream_shards)


def _reviews(engine: AsyncEngine, clock: Clock, signals: SignalsCommit) -> ReviewLoops:
    """Return the loops of reviews."""
    stores = (SampleStore(engine, ResponseStore(engine)), ClaimStore(engine), ReadingStore(engine))
    return ReviewLoops(stores, SignalSender(SignalStore(engine), signals, clock), clock)


def _judging(
    engine: AsyncEngine, clock: Clock, signals: SignalsCommit, stack: AsyncExitStack
) -> JudgingLoops:
    """Return the loops of judging. The stack closes the judges at its end."""
    stores = JudgingStores.of(engine)
    judges = JudgeHolder(stores.registry, clock)
    stack.push_async_callback(judges.aclose)
    return JudgingLoops(
        Planner(stores, clock, judges.toxicity),
        JudgingDispatcher(stores, judges, clock, random.Random()),  # noqa: S311 - for pauses
        JudgeSignalSender(stores.judgements, signals, clock),
        TrustService(stores, ReviewStore(engine), clock),
    )


def _dispatcher(settings: Settings, engine: AsyncEngine, clock: Clock, rng: random.Random) -> Dispatcher:
    """Return the dispatcher of webhooks. Receivers compare its time with their wall clock."""
    policy = NetworkPolicy.of(settings.webhook_allowed_networks, settings.webhook_allowed_ports)
    wall = WallClock()
    return Dispatcher(WebhookStore(engine), Sender(policy, wall), clock, rng, wall=wall)


def _key_checker(
    store: AccessStore, clock: Clock
) -> Callable[[Iterable[tuple[bytes, bytes]]], Awaitable[bool]]:
    """Return a check of headers for a key in PostgreSQL that may read; False while it is away."""

    async def key_ring() -> KeyRing:
        return KeyRing(await store.snapshot())

    keyring = Shared(key_ring, max_age_s=WORKER_BEAT_S)

    async def reads_all(headers: Iterable[tuple[bytes, bytes]]) -> bool:
        if credential(headers) is None:
            return False
        with suppress(*OUTAGES):
            async with asyncio.timeout(READY_CHECK_S):
                return (await keyring.get()).admits(headers, Scope.READ, clock.now_ms())
        return False

    return reads_all
