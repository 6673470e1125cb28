"""The worker's loop of rollouts: each is looked at after the ledger's commits, and every second."""

import asyncio
from collections.abc import Iterable
from typing import Final

import msgspec
import structlog

from app.core import limits
from app.core.loops import Loop
from app.rollouts.service import RolloutService

_LOG: Final = structlog.get_logger(__name__)
_UNUSABLE: Final = (msgspec.MsgspecError, ValueError)


class RolloutLoops:
    """May be cancelled at any point, and run in several workers at once.

    `errors` names the rollouts that cannot be decided at present, and why.
    """

    def __init__(self, rollouts: RolloutService) -> None:
        self.errors: dict[str, str] = {}
        self._rollouts = rollouts
        self._wake = asyncio.Event()

    def all(self) -> list[Loop]:
        """Look at every rollout that has not ended."""
        return [Loop("rollouts", self._look, pause_s=limits.REALLOCATION_INTERVAL_S)]

    def on_commit(self, _experiment_ids: Iterable[int]) -> None:
        """The ledger has changed totals."""
        self._wake.set()

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(limits.ROLLOUT_LOOK_S):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        for rollout_id in await self._rollouts.active():
            name = f"rollout {rollout_id}"
            try:
                await self._rollouts.look(rollout_id)
                self.errors.pop(name, None)
            except _UNUSABLE as error:  # the others must not wait for one that a newer version wrote
                if name not in self.errors:
                    _LOG.error("rollout_not_decided", rollout_id=rollout_id, reason=str(error))
                self.errors[name] = str(error)
