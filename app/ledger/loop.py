"""Loops beside the consumers: the horizon sweep, and the removal of old policy totals and series."""

import asyncio
from collections.abc import Callable, Sequence

from app.core.clock import Clock, SystemClock
from app.core.loops import stop_if_cancelled
from app.ledger import limits
from app.ledger.learning.step import delete_forgotten
from app.ledger.store import LedgerStore
from app.ledger.units.series_step import thin_series

OnCommit = Callable[[Sequence[int]], None]
"""Called right after a commit with the experiments whose totals changed."""


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
