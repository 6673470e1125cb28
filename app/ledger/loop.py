"""Loops beside the consumers: the horizon sweep, and the removal of old policy totals and series."""

import asyncio
from functools import partial
from time import monotonic
from typing import Final

import structlog

from app.core.clock import Clock, SystemClock
from app.core.logs import brief
from app.core.loops import Loop, stop_if_cancelled
from app.core.telemetry import BACKFILLED, BACKFILLS
from app.core.valkey import Valkey
from app.ledger import limits
from app.ledger.backfill_step import keep_error, unfinished_backfills
from app.ledger.backfill_store import advance_backfill
from app.ledger.consumer import OnCommit, ShardConsumer
from app.ledger.learning.step import delete_forgotten
from app.ledger.store import POISON, LedgerStore
from app.ledger.units.series_step import thin_series

_LOG: Final = structlog.get_logger(__name__)


class HorizonSweep:
    """Sweeps deadlines that passed without a signal. Any number may run side by side."""

    def __init__(self, database_url: str, on_commit: OnCommit, clock: Clock | None = None) -> None:
        self._database_url = database_url
        self._on_commit = on_commit
        self._clock = clock or SystemClock()

    async def run(self) -> None:
        """Sweep until PostgreSQL fails."""
        async with LedgerStore.open(self._database_url, self._clock) as store:
            while True:
                stop_if_cancelled()
                resolved, changed = await store.sweep()
                if changed:
                    self._on_commit(changed)
                if resolved < limits.SWEEP_ASSIGNMENTS_MAX:
                    await asyncio.sleep(limits.SWEEP_INTERVAL_S)


class Backfills:
    """Measures units again where metrics have changed. Any number may run side by side.

    `errors` names the experiments whose backfill fails, and why.
    """

    def __init__(self, database_url: str, on_commit: OnCommit, clock: Clock | None = None) -> None:
        self.errors: dict[str, str] = {}
        self._database_url = database_url
        self._on_commit = on_commit
        self._clock = clock or SystemClock()

    async def run(self) -> None:
        """Advance every backfill in turn, until none is left for this worker."""
        async with LedgerStore.open(self._database_url, self._clock) as store:
            waiting = await store.transact(unfinished_backfills)
            BACKFILLS.set(len(waiting))
            while waiting:
                stop_if_cancelled()
                waiting = [key for key in waiting if await self._advance(store, key)]

    async def _advance(self, store: LedgerStore, experiment_id: int) -> bool:
        """Advance one backfill. Return whether to go on with it at once."""
        name = f"backfill of experiment {experiment_id}"
        started = monotonic()
        try:
            progress = await advance_backfill(store, experiment_id)
        except POISON as error:
            self.errors[name] = brief(error)
            _LOG.exception("backfill_failed", experiment_id=experiment_id)
            await store.transact(partial(keep_error, experiment_id=experiment_id, error=brief(error)))
            return False
        self.errors.pop(name, None)
        if progress is None:
            return False
        BACKFILLED.inc(progress.assignments)
        if progress.changed:
            self._on_commit(progress.changed)
        # Half of the time belongs to the consumers, which share this process.
        await asyncio.sleep(min(monotonic() - started, limits.BACKFILL_REST_S))
        return not progress.at_end


class Cleanup:
    """Deletes policy totals that no policy can read any more, and thins old series.

    Any number may run side by side.
    """

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url

    async def run(self) -> None:
        """Do a bounded part of the work."""
        async with LedgerStore.open(self._database_url) as store:
            await store.transact(delete_forgotten)
            while await store.transact(thin_series) >= limits.SERIES_THIN_ROWS_MAX:
                stop_if_cancelled()


def ledger_loops(
    *, shards: int, owner: str, database_url: str, valkey: Valkey, clock: Clock, on_commit: OnCommit
) -> list[Loop]:
    """Return the loops of a worker's ledger: a consumer per shard, the horizon sweep and the cleanup."""
    consumers = [
        ShardConsumer(
            shard, owner=owner, database_url=database_url, valkey=valkey, clock=clock, on_commit=on_commit
        )
        for shard in range(shards)
    ]
    return [
        *(Loop(f"ledger shard {shard}", consumer.run) for shard, consumer in enumerate(consumers)),
        Loop("sweep", HorizonSweep(database_url, on_commit, clock).run),
        Loop("cleanup", Cleanup(database_url).run, pause_s=limits.FORGOTTEN_INTERVAL_S),
    ]
