"""The worker's loops of allocation: they publish what is due within a second of its commit."""

import asyncio
from collections.abc import Iterable
from time import monotonic

import structlog

from app.access.service import AccessService
from app.allocation import limits
from app.allocation.service import UNUSABLE, AllocationService
from app.core.loops import Loop

_LOG = structlog.get_logger(__name__)


class AllocationLoops:
    """May be cancelled at any point, and run in several workers at once.

    `errors` names the experiments that cannot be allocated at present, and why.
    """

    def __init__(self, allocation: AllocationService, access: AccessService) -> None:
        self.errors: dict[str, str] = {}
        self._allocation = allocation
        self._access = access
        self._wake = asyncio.Event()
        self._look_for_missing_at = 0.0

    def all(self) -> list[Loop]:
        """Reallocate what is due, restore what Valkey has lost, thin the history."""
        return [
            Loop("reallocation", self._reallocate_due, pause_s=limits.REALLOCATION_INTERVAL_S),
            Loop("publication", self._restore, pause_s=limits.PUBLICATION_CHECK_S),
            Loop("history", self._allocation.thin_history, pause_s=limits.HISTORY_THIN_INTERVAL_S),
        ]

    def on_commit(self, _experiment_ids: Iterable[int]) -> None:
        """Wake the loop: the ledger has changed totals.

        PostgreSQL holds which experiments changed, so a crash cannot lose it.
        """
        self._wake.set()

    async def _reallocate_due(self) -> None:
        """Make one pass at the ledger's next commit, or after a while.

        Later passes keep the interval.
        """
        try:
            async with asyncio.timeout(limits.REALLOCATION_POLL_S):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        for experiment_id in await self._allocation.due():
            name = f"experiment {experiment_id}"
            try:
                await self._allocation.reallocate(experiment_id)
                self.errors.pop(name, None)
            except UNUSABLE as error:  # the others must not wait for one that a newer version wrote
                if name not in self.errors:
                    _LOG.error("experiment_not_allocated", experiment_id=experiment_id, reason=str(error))
                self.errors[name] = str(error)

    async def _restore(self) -> None:
        await self._access.publish_if_due()
        began = monotonic()
        refilled = await self._allocation.refill_if_lost()
        if refilled:
            _LOG.warning("valkey_refilled", experiments=refilled, seconds=round(monotonic() - began, 3))
            self._wake.set()
        if monotonic() >= self._look_for_missing_at:
            if await self._allocation.store_missing():
                self._wake.set()
            self._look_for_missing_at = monotonic() + limits.NOT_STORED_CHECK_S
