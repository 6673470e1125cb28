"""Use cases of analysis."""

import asyncio
from collections.abc import Awaitable, Callable

from app.analysis.model import Status
from app.analysis.store import AnalysisStore
from app.core.errors import Unavailable
from app.experiments.service import ExperimentService


class AnalysisService:
    """`lag` counts acknowledged events not yet in the totals, and raises Unavailable without Valkey."""

    def __init__(
        self, experiments: ExperimentService, store: AnalysisStore, lag: Callable[[], Awaitable[int]]
    ) -> None:
        self._experiments = experiments
        self._store = store
        self._lag = lag

    async def status(self, key: str) -> Status:
        """The readout of an experiment. Raises NotFound.

        The lag is read before the totals: when it is 0, everything acknowledged by then is in them.
        """
        experiment = await self._experiments.get(key)
        try:
            lag_events, warnings = await self._lag(), []
        except Unavailable as error:
            lag_events, warnings = None, [f"lag_events is not known: {error.detail}"]
        stored = await self._store.stored(experiment)
        # In a thread: this process also assigns, and nobody's request waits for somebody's statistics.
        return await asyncio.to_thread(stored.status, experiment, lag_events=lag_events, warnings=warnings)
