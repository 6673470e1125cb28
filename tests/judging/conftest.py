from collections.abc import AsyncIterator, Callable
from datetime import datetime
from random import Random
from typing import Any

import msgspec
import psycopg
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.postgres import psycopg_dsn
from app.experiments.model import Definition, Experiment, Variant
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.judging.dispatch import JudgingDispatcher
from app.judging.judge_holder import JudgeHolder
from app.judging.model import RuleRequest
from app.judging.planning_service import Planner
from app.judging.registry_service import RegistryService
from app.judging.rule_service import RuleService
from app.judging.store import JudgingStores
from app.judging.tables import judgements
from tests.support.clocks import SettableClock
from tests.support.model_server import ModelServer, model_server
from tests.support.responses import NOW, new_response, store_responses

DEFINITION = Definition(
    key="exp", variants=(Variant("control", control=True), Variant("short", payload={"model": "m-small"}))
)
RULE_JUDGE = {"kind": "rule", "name": "filled", "check": {"rule": "empty"}}


@pytest.fixture
async def database_url(module_database: str) -> str:
    """Empty the tables of experiments, judges and responses."""
    async with await psycopg.AsyncConnection.connect(psycopg_dsn(module_database)) as connection:
        await connection.execute(
            "TRUNCATE experiments, judge_versions, judging_rules, judging_reservoirs,"
            " judging_counts, judging_spending, judgements, judgement_attempts, responses,"
            " response_keys, response_holds, webhook_messages RESTART IDENTITY CASCADE"
        )
    return module_database


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock(NOW)


@pytest.fixture
def stores(engine: AsyncEngine) -> JudgingStores:
    return JudgingStores.of(engine)


@pytest.fixture
async def judges(stores: JudgingStores, clock: SettableClock) -> AsyncIterator[JudgeHolder]:
    holder = JudgeHolder(stores.registry, clock)
    yield holder
    await holder.aclose()


@pytest.fixture
def planner(stores: JudgingStores, clock: SettableClock) -> Planner:
    async def unknown(texts):
        return [None] * len(texts)

    return Planner(stores, clock, unknown)


@pytest.fixture
def dispatcher(stores: JudgingStores, judges: JudgeHolder, clock: SettableClock) -> JudgingDispatcher:
    return JudgingDispatcher(stores, judges, clock, Random(20261201))


@pytest.fixture
async def experiments(engine: AsyncEngine, clock: SettableClock) -> ExperimentService:
    async def leave_it_due(experiment_id: int) -> None: ...

    return ExperimentService(ExperimentStore(engine), clock, leave_it_due)


@pytest.fixture
async def experiment(experiments: ExperimentService) -> Experiment:
    """Start an experiment with the id 1."""
    await experiments.create(DEFINITION)
    return await experiments.start(DEFINITION.key)


@pytest.fixture
def registry(stores: JudgingStores, clock: SettableClock) -> RegistryService:
    return RegistryService(stores.registry, clock)


@pytest.fixture
def rules(
    stores: JudgingStores, experiments: ExperimentService, experiment: Experiment, clock: SettableClock
) -> RuleService:
    return RuleService(stores, experiments.get, clock)


@pytest.fixture
async def models(anyio_backend: str) -> AsyncIterator[ModelServer]:
    async with model_server() as running:
        yield running


@pytest.fixture
def use(registry: RegistryService, rules: RuleService) -> Callable[..., Any]:
    """Return a function that registers a judge and lets it score the experiment."""

    async def use(definition: dict[str, Any], **fields: Any) -> Any:
        version, _ = await registry.register(msgspec.json.encode(definition))
        return await rules.create("exp", msgspec.convert({"judge": version.name, **fields}, RuleRequest))

    return use


@pytest.fixture
def respond(database_url: str, clock: SettableClock) -> Callable[..., Any]:
    """Return a function that stores responses by their numbers."""

    async def respond(numbers: Any, **fields: Any) -> None:
        fields = {"at": clock.now(), "received_at": clock.now()} | fields
        variant = fields.pop("variant", None)
        rows = [
            new_response(number, variant=number % 2 if variant is None else variant, **fields)
            for number in numbers
        ]
        await store_responses(database_url, rows)

    return respond


@pytest.fixture
def judge_all(dispatcher: JudgingDispatcher) -> Callable[..., Any]:
    """Return a function that makes all due judgements and returns their number."""

    async def judge_all() -> int:
        n = 0
        while works := [*await dispatcher.claim_calls(100), *await dispatcher.claim_batches(4)]:
            done = [await dispatcher.attempt(work) for work in works]
            await dispatcher.record(done)
            n += sum(len(work.jobs) for work in works)
        return n

    return judge_all


@pytest.fixture
def stored(engine: AsyncEngine) -> Callable[..., Any]:
    """Return a function that returns all rows of `judgements`."""

    async def stored() -> list[Any]:
        async with engine.connect() as connection:
            return list(await connection.execute(select(judgements).order_by(judgements.c.id)))

    return stored


def llm(models: ModelServer, **fields: Any) -> dict[str, Any]:
    """Return the definition of a judge that asks the local server. A call costs 0.0004 USD."""
    return {
        "kind": "llm",
        "name": "helpful",
        "base_url": models.url,
        "model": "judge-model",
        "rubric": "Is the answer helpful?",
        "operation": {
            "price": {"input_usd": 2.0, "output_usd": 10.0},
            "timeout_s": 5,
            "attempts_max": 1,
        },
    } | fields


def decision(models: ModelServer, **fields: Any) -> dict[str, Any]:
    """Return the definition of a decision judge that asks the local server."""
    return {
        "kind": "decision",
        "name": "right",
        "base_url": models.url,
        "model": "decider",
        "statement": "The answer is right.",
        "operation": {"price": {"input_usd": 1.0, "output_usd": 0.0}, "timeout_s": 5, "attempts_max": 1},
    } | fields


def day(hour: int) -> datetime:
    """Return a time of the day of the tests."""
    return NOW.replace(hour=hour)
