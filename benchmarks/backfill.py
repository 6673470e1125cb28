"""The backfill: seconds to add a metric to an experiment, and the rate of ingestion beside it.

The ledger takes assignments with two signals each into an experiment with one metric. Then a second
metric is added, and the loop of the worker measures it from the log while new events arrive, in the
same process. References of the same run are the time that the ledger took for the same assignments,
and the rate at which it takes new events without a backfill. An argument sets the number of
assignments.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Final

import psycopg

from app.core import migrations
from app.core.clock import SystemClock
from app.core.engines import EmbeddedEngines
from app.core.postgres import create_engine, psycopg_dsn
from app.experiments import lifecycle
from app.experiments.lifecycle import DefinitionChange
from app.experiments.metrics import Mean, Metric, Proportion
from app.experiments.reward import Reward
from app.experiments.store import ExperimentStore
from app.ledger.lease import Lease
from app.ledger.log.batch import StreamEntry, stage
from app.ledger.loop import Backfills
from app.ledger.store import LedgerStore
from benchmarks.ingest import entries
from tests.ledger.support import create_experiment

ASSIGNMENTS: Final = 1_000_000
NEW_ASSIGNMENTS: Final = 20_000
"""Assignments that arrive while the metric is measured, and before."""
LIKED: Final = Metric(key="liked", measure=Proportion("thumbs_up", silence=0))
ADDED: Final = Metric(key="disliked", measure=Mean("thumbs_down", (0.0, 1.0)))


async def run(n_assignments: int, folder: Path) -> dict[str, float]:
    """Return the times and rates of one run."""
    async with EmbeddedEngines(folder) as engines:
        migrations.upgrade(engines.database_url)
        create_experiment(engines.database_url, "backfill", Reward())
        with psycopg.connect(psycopg_dsn(engines.database_url)) as connection:
            connection.execute(
                'UPDATE experiments SET state = \'{"kind": "running", "started_at": "2026-01-01T00:00:00Z"}\''
            )
        await _change(engines.database_url, (LIKED,))
        await _backfill(engines.database_url)
        async with LedgerStore.open(engines.database_url) as store:
            lease = await store.acquire(0, "benchmark")
            assert lease is not None
            lease, first_s = await _take(store, lease, entries(n_assignments, 1))
            lease, alone_s = await _take(store, lease, entries(NEW_ASSIGNMENTS, 2))
            await _change(engines.database_url, (LIKED, ADDED))
            started = perf_counter()
            backfill = asyncio.create_task(_backfill(engines.database_url))
            _, beside_s = await _take(store, lease, entries(NEW_ASSIGNMENTS, 3))
            await backfill
            return {
                "backfill_s": perf_counter() - started,
                "ledger_s": first_s,
                "ingestion_ratio": alone_s / beside_s,
            }


async def _take(
    store: LedgerStore, lease: Lease, batches: Iterator[list[StreamEntry]]
) -> tuple[Lease, float]:
    """Take batches into the ledger. Return the lease behind them and the seconds that it took."""
    started = perf_counter()
    for batch in batches:
        lease, _ = await store.apply(lease, stage(batch), batch, None)
    return lease, perf_counter() - started


async def _change(database_url: str, metrics: tuple[Metric, ...]) -> None:
    engine = create_engine(database_url)
    request = DefinitionChange(metrics=metrics)
    await ExperimentStore(engine).update(
        "backfill", lambda experiment, _: lifecycle.change(experiment, request), SystemClock()
    )
    await engine.dispose()


async def _backfill(database_url: str) -> None:
    """Run the loop of the worker until the backfill has finished."""
    await Backfills(database_url, lambda _: None).run()


def main() -> None:
    """Print the figures of one run."""
    n_assignments = int(sys.argv[1]) if len(sys.argv) > 1 else ASSIGNMENTS
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(run(n_assignments, Path(folder) / "data"))
    per_s = (n_assignments + NEW_ASSIGNMENTS) / figures["backfill_s"]
    print(
        f"a metric over {n_assignments:,} assignments: {figures['backfill_s']:.1f} s, {per_s:,.0f} a second"
    )
    print(f"the ledger took the same assignments and their signals in {figures['ledger_s']:.1f} s")
    print(f"rate of new events beside the backfill: {figures['ingestion_ratio']:.2f} of that without")


if __name__ == "__main__":
    main()
