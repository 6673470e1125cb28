"""The worker's loops of allocation: what is due is computed and published, within a second of its commit."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.access.service import AccessService
from app.allocation.service import AllocationService
from app.core import limits
from app.core.errors import WaldError

_LOG = structlog.get_logger(__name__)
_ENGINES_AWAY: Final = (WaldError, SQLAlchemyError, OSError)
_UNUSABLE: Final = (msgspec.MsgspecError, ValueError)


class AllocationLoop:
    """Runs until it is cancelled, which is safe at any point. Several workers may each run one.

    `errors` names what does not work at present, and why; empty: all is well.
    """

    def __init__(self, allocation: AllocationService, access: AccessService) -> None:
        self.errors: dict[str, str] = {}
        self._allocation = allocation
        self._access = access
        self._wake = asyncio.Event()

    def on_commit(self, _experiment_ids: Iterable[int]) -> None:
        """The ledger has changed totals. Whose, stands in PostgreSQL, where a crash cannot lose it."""
        self._wake.set()

    async def run(self) -> None:
        """Reallocate what is due, restore what Valkey has lost, thin the history; again and again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat("reallocation", self._reallocate_due, self._until_due))
            tasks.create_task(self._repeat("publication", self._restore, _pause(limits.PUBLICATION_CHECK_S)))
            tasks.create_task(
                self._repeat("history", self._allocation.thin_history, _pause(limits.HISTORY_THIN_INTERVAL_S))
            )

    async def _repeat(
        self, name: str, work: Callable[[], Awaitable[object]], pause: Callable[[], Awaitable[object]]
    ) -> None:
        while True:
            try:
                await work()
                self.errors.pop(name, None)
            except _ENGINES_AWAY as error:
                self._note(name, error)
            await pause()

    def _note(self, name: str, error: Exception) -> None:
        """Tell the log when it begins, and `/ready` as long as it lasts."""
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if name not in self.errors:
            _LOG.warning("allocation_waits", part=name, reason=reason)
        self.errors[name] = reason

    async def _reallocate_due(self) -> None:
        self._wake.clear()
        for experiment_id in await self._allocation.due():
            name = f"experiment {experiment_id}"
            try:
                await self._allocation.reallocate(experiment_id)
                self.errors.pop(name, None)
            except _UNUSABLE as error:  # the others must not wait for one that a newer version wrote
                self._note(name, error)

    async def _until_due(self) -> None:
        """The first pause keeps every experiment's interval; a commit of the ledger ends the second."""
        await asyncio.sleep(limits.REALLOCATION_INTERVAL_S)
        try:
            async with asyncio.timeout(limits.REALLOCATION_POLL_S - limits.REALLOCATION_INTERVAL_S):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _restore(self) -> None:
        if await self._allocation.want_all_if_lost():
            _LOG.warning("publications_lost", then="everything is published again")
            self._wake.set()
        await self._access.publish_if_due()


def _pause(seconds: float) -> Callable[[], Awaitable[None]]:
    return lambda: asyncio.sleep(seconds)
