"""Loops beside the stream: rewards at the horizon of assignments in silence; what grew old goes."""

import asyncio
from collections.abc import Callable, Sequence

from app.core.clock import Clock, SystemClock
from app.core.loops import stop_if_cancelled
from app.ledger import limits
from app.ledger.store import LedgerStore

OnCommit = Callable[[Sequence[int]], None]
"""Told which experiments' totals have changed, right after the commit."""


class Horizons:
    """Looks for deadlines that passed in silence. Any number may run side by side."""

    def __init__(self, database_url: str, on_commit: OnCommit, clock: Clock | None = None) -> None:
        self._database_url = database_url
        self._on_commit = on_commit
        self._clock = clock or SystemClock()

    async def run(self) -> None:
        """Until PostgreSQL fails."""
        async with LedgerStore.open(self._database_url, self._clock) as store:
            while True:
                stop_if_cancelled()
                resolved, changed = await store.resolve_silence()
                if changed:
                    self._on_commit(changed)
                if resolved < limits.SWEEP_ASSIGNMENTS_MAX:
                    await asyncio.sleep(limits.SWEEP_INTERVAL_S)


class Forgotten:
    """Deletes what no policy can read any more of what they learned, and thins old series.

    Any number may run side by side.
    """

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url

    async def run(self) -> None:
        """A bounded part of the work."""
        async with LedgerStore.open(self._database_url) as store:
            await store.delete_forgotten()
            while await store.thin_series() >= limits.SERIES_THIN_ROWS_MAX:
                stop_if_cancelled()
