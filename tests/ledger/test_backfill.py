"""Metrics that change while events come: the ledger ends as if they had always been there."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.clock import SystemClock
from app.core.postgres import psycopg_dsn
from app.experiments import lifecycle
from app.experiments.lifecycle import DefinitionChange
from app.experiments.metrics import Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.model import Definition, Variant
from app.experiments.plan import AnalysisPlan, Segments
from app.experiments.policies import ThompsonPolicy
from app.experiments.reward import Reward
from app.experiments.store import ExperimentStore
from app.feedback.model import Source
from app.ledger import limits
from app.ledger.backfill_step import measure_next
from app.ledger.backfill_store import advance_backfill, complete_backfill
from app.ledger.log.batch import stage
from app.ledger.rebuild import rebuild_totals
from app.ledger.store import LedgerStore
from app.ledger.units.measures import CellTotals
from tests.ledger.support import (
    SALT,
    Assigned,
    Said,
    execute,
    exposures,
    moment,
    numbered,
    open_epoch,
    rows,
    shuffled,
    signals,
)
from tests.ledger.test_ledger import forget_everything

pytestmark = pytest.mark.anyio

LIKED = Metric(key="liked", measure=Proportion("up", silence=0), role="primary")
LATENCY = Metric(key="latency", measure=Mean("latency"))
CAPPED = Metric(key="latency", measure=Mean("latency", (0.0, 1.0)))
PER_DOWN = Metric(key="per-down", measure=Ratio("latency", "down"))
P95 = Metric(key="p95", measure=QuantileOf("latency"))
REWARD = Reward(signals={"up": 1.0, "down": 0.0}, horizon_s=0.05)
SEGMENTED = AnalysisPlan(segments=Segments("number", ("1", "2")))
BASE = Definition(
    key="each",
    variants=(Variant("control", control=True), Variant("other")),
    policy=ThompsonPolicy(),
    reward=REWARD,
    metrics=(LIKED, LATENCY),
)
DEFINITIONS = {
    1: BASE,
    2: msgspec.structs.replace(BASE, key="sticky", stickiness="unit"),
    3: msgspec.structs.replace(BASE, key="bare", metrics=()),
}
CHANGES = {
    "added": {"metrics": (LIKED, P95, LATENCY, PER_DOWN)},
    "corrected": {"metrics": (LIKED, CAPPED)},
    "removed": {"metrics": (LIKED,)},
    "back": {"metrics": (LIKED, LATENCY)},
    "segments": {"plan": SEGMENTED},
    "other segments": {"plan": AnalysisPlan(segments=Segments("number", ("2", "3")))},
    "reward": {"reward": Reward(signals={"up": 0.5, "down": 0.0, "latency": 1.0}, horizon_s=0.05)},
}


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[tuple[LedgerStore, LedgerStore]]:
    """Open two sessions, as of two workers."""
    define(database_url)
    async with LedgerStore.open(database_url) as first, LedgerStore.open(database_url) as second:
        yield first, second


def define(database_url: str) -> None:
    """Create the experiments as they are at the start."""
    with psycopg.connect(psycopg_dsn(database_url)) as connection:
        connection.execute("TRUNCATE experiments RESTART IDENTITY CASCADE")
        for definition in DEFINITIONS.values():
            connection.execute(
                "INSERT INTO experiments (key, definition, state, salt, reads_silence)"
                " VALUES (%s, %s, %s, %s, %s)",
                (
                    definition.key,
                    msgspec.json.encode(definition).decode(),
                    '{"kind": "running", "started_at": "2026-09-21T00:00:00Z"}',
                    SALT,
                    definition.reads_silence,
                ),
            )
    for number in DEFINITIONS:
        open_epoch(database_url, number, 1, ThompsonPolicy())


async def change(engine: AsyncEngine, experiment_id: int, name: str) -> None:
    """Change an experiment as a PATCH does."""
    request = DefinitionChange(**CHANGES[name], reopen_plan=True, reason="a test")
    store, key = ExperimentStore(engine), DEFINITIONS[experiment_id].key
    await store.update(key, lambda experiment, _: lifecycle.change(experiment, request), SystemClock())


@st.composite
def histories(draw: st.DrawFn) -> list[Assigned | Said]:
    """Draw events in the order of their delivery; feedback may come before its exposure."""
    assigned = [
        Assigned(
            experiment_id=draw(st.integers(1, 3)),
            unit=draw(st.integers(-1, 1)),
            number=number,
            at_ms=draw(st.integers(0, 90)),
            variant=draw(st.sampled_from([0, 0, 1])),
            propensity=draw(st.sampled_from([0.5, 0.2])),
        )
        for number in range(draw(st.integers(2, 10)))
    ]
    feedback = []
    for _ in range(draw(st.integers(0, 16))):
        target = draw(st.sampled_from(assigned))
        feedback.append(
            Said(
                about=draw(st.sampled_from([target, target, target.unit])),
                experiment_id=target.experiment_id,
                signal=draw(st.sampled_from(["up", "down", "latency"])),
                source=Source.EXPLICIT,
                value=draw(st.sampled_from([0.0, 0.3, 1.0, 2.7])),
                at_ms=target.at_ms + draw(st.integers(0, 60)),
            )
        )
    return shuffled([*assigned, *feedback], Random(draw(st.integers(0, 2**32))))


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    events=histories(),
    changes=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(sorted(CHANGES))), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
async def test_a_changed_metric_ends_as_if_it_had_been_there_from_the_start(
    database_url: str,
    engine: AsyncEngine,
    stores: tuple[LedgerStore, LedgerStore],
    events: list[Assigned | Said],
    changes: list[tuple[int, str]],
    seed: int,
) -> None:
    """Events, changes, sweeps and the transactions of backfills come in any order."""
    await forget_everything(stores[0])
    define(database_url)
    random = Random(seed)
    steps: list[Any] = [*events, *changes, *(["advance"] * 5)]
    random.shuffle(steps)
    entries = {id(event): entry for event, entry in zip(events, numbered(made(events)), strict=True)}
    await play(engine, stores, steps, entries, random)
    for number in DEFINITIONS:
        await complete_backfill(stores[0], number)
    changed = contents(database_url)
    assert await rebuild_totals(database_url) == []
    assert contents(database_url) == changed

    await forget_everything(stores[0])
    await play(engine, stores, events, entries, random)
    assert contents(database_url) == changed


def made(events: Sequence[Assigned | Said]) -> list[Any]:
    return [exposures([event]) if isinstance(event, Assigned) else signals([event]) for event in events]


async def play(
    engine: AsyncEngine,
    stores: tuple[LedgerStore, LedgerStore],
    steps: Sequence[Any],
    entries: dict[int, Any],
    random: Random,
) -> None:
    """Take steps one after the other, then let all horizons pass."""
    lease = await stores[1].acquire(0, "test")
    assert lease is not None
    for step in steps:
        if isinstance(step, Assigned | Said):
            batch = [entries[id(step)]]
            lease, _ = await stores[1].apply(lease, stage(batch), batch, moment(random.randint(0, 150)))
        elif step == "advance":
            limit = limits.BACKFILL_ASSIGNMENTS_MAX
            limits.BACKFILL_ASSIGNMENTS_MAX = 2  # type: ignore[misc]
            for number in DEFINITIONS:
                await advance_backfill(stores[0], number)
            limits.BACKFILL_ASSIGNMENTS_MAX = limit  # type: ignore[misc]
        else:
            await change(engine, *step)
        if random.random() < 0.2:
            await stores[0].sweep()
    await stores[1].renew(lease, moment(300))
    while (await stores[0].sweep())[0]:
        pass
    await stores[1].release(0, "test")


def contents(database_url: str) -> dict[str, Any]:
    """Return all totals that are not empty, decoded, by table and key."""
    bodies = {
        "metric_totals": "experiment_id, epoch, variant, segment, crossed",
        "metric_series": "experiment_id, minute, span, epoch, variant, crossed",
        "share_totals": "experiment_id, epoch, stratum, variant",
    }
    totals_by_table: dict[str, Any] = {}
    for table, key in bodies.items():
        stored = rows(database_url, f"SELECT {key}, body FROM {table} WHERE body <> ''")
        totals = {tuple(names): CellTotals.from_bytes(body) for *names, body in stored}
        totals_by_table[table] = {names: total for names, total in totals.items() if not total.empty}
    totals_by_table["units"] = sorted(
        rows(
            database_url,
            "SELECT experiment_id, epoch, unit_hash, assignment_id, variant, segment, crossed, "
            " minute, stratum, weight, layout, body FROM unit_totals",
        )
    )
    totals_by_table["totals"] = sorted(rows(database_url, "SELECT * FROM totals WHERE assignments > 0"))
    totals_by_table["signals"] = sorted(
        rows(
            database_url,
            "SELECT experiment_id, signal, counted, waiting, unknown_unit, late, early,"
            " out_of_range FROM signal_totals"
            " WHERE counted + waiting + unknown_unit + late + early > 0",
        )
    )
    return totals_by_table


async def test_two_workers_share_a_backfill_and_a_dead_one_loses_nothing(
    database_url: str, engine: AsyncEngine, stores: tuple[LedgerStore, LedgerStore], monkeypatch: Any
) -> None:
    monkeypatch.setattr(limits, "BACKFILL_ASSIGNMENTS_MAX", 7)
    assigned = [Assigned(1, number, number, number % 50, number % 2) for number in range(60)]
    scores = [
        Said(unit, 1, "latency", Source.AUTOMATED, 0.1 * unit.number, unit.at_ms + 1) for unit in assigned
    ]
    entries = numbered([exposures(assigned), signals(scores)])
    await play(engine, stores, [], {}, Random(1))
    lease = await stores[1].acquire(0, "test")
    assert lease is not None
    await stores[1].apply(lease, stage(entries), entries, moment(300))
    await change(engine, 1, "added")

    async def dies(cursor: Any) -> None:
        assert await measure_next(cursor, 1) is not None
        raise ConnectionError("killed before the commit")

    with pytest.raises(ConnectionError):
        await stores[0].transact(dies)
    assert rows(database_url, "SELECT done, finished_at FROM backfills") == [(0, None)]
    await asyncio.gather(*(complete_backfill(store, 1) for store in stores))
    await complete_backfill(stores[0], 1)
    ((done, expected, finished),) = rows(database_url, "SELECT done, expected, finished_at FROM backfills")
    assert (done, expected) == (60, 60), "each assignment was measured once"
    assert finished is not None
    assert rows(database_url, "SELECT earlier_layouts::text FROM experiments WHERE id = 1") == [("[]",)]
    assert rows(database_url, "SELECT DISTINCT layout FROM unit_totals") == [(2,)]
    assert await rebuild_totals(database_url) == []


async def test_a_rebuild_finishes_a_backfill(
    database_url: str, engine: AsyncEngine, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    assigned = [Assigned(3, number, number, 0, number % 2) for number in range(10)]
    scores = [Said(unit, 3, "latency", Source.AUTOMATED, 0.5, 1) for unit in assigned]
    entries = numbered([exposures(assigned), signals(scores)])
    lease = await stores[1].acquire(0, "test")
    assert lease is not None
    await stores[1].apply(lease, stage(entries), entries, moment(300))
    await change(engine, 3, "back")
    assert await rebuild_totals(database_url) == []
    assert rows(database_url, "SELECT count(*) FROM unit_totals WHERE experiment_id = 3") == [(10,)]
    execute(database_url, "UPDATE metric_totals SET body = '' WHERE variant = 1")
    assert [difference.table for difference in await rebuild_totals(database_url)] == ["metric_totals"]


async def test_a_change_waits_for_no_batch_that_measures_something_else(
    database_url: str, engine: AsyncEngine, stores: tuple[LedgerStore, LedgerStore]
) -> None:
    """A batch of another group of experiments goes on; one of this experiment ends first."""
    held = asyncio.Event()
    release = asyncio.Event()

    async def batch(cursor: Any) -> None:
        await measure_next(cursor, 1)  # has nothing to do, and holds the layouts of experiment 1
        held.set()
        await release.wait()

    running = asyncio.create_task(stores[0].transact(batch))
    await held.wait()
    await change(engine, 2, "added")
    waiting = asyncio.create_task(change(engine, 1, "added"))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done, "the transaction has to end before the metrics change"
    release.set()
    await running
    await waiting
    await complete_backfill(stores[0], 1)
