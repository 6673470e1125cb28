"""The worker's loop of rollouts: it looks at each after a commit of the ledger, and every second."""

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from app.allocation.limits import REALLOCATION_INTERVAL_S
from app.core.loops import Loop
from app.core.outages import POSTGRES_AWAY
from app.core.telemetry import DEGRADED
from app.rollouts import limits
from app.rollouts.service import RolloutService

_LOG: Final = structlog.get_logger(__name__)


class RolloutLoops:
    """The loops, which may be cancelled at any point and run in several workers at once.

    `errors` names the rollouts that cannot be decided at present, with the reason.
    """

    def __init__(self, rollouts: RolloutService) -> None:
        self.errors: dict[str, str] = {}
        self._rollouts = rollouts
        self._wake = asyncio.Event()

    def all(self) -> list[Loop]:
        """Return the loops: look at every rollout that is under way, and show the state of all of them."""
        return [
            Loop("rollouts", self._look, pause_s=REALLOCATION_INTERVAL_S),
            Loop("rollout metrics", self._rollouts.measure, pause_s=limits.ROLLOUT_NOTE_S),
        ]

    def on_commit(self, _experiment_ids: Iterable[int]) -> None:
        """Wake the loop, because the ledger has changed totals."""
        self._wake.set()

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(limits.ROLLOUT_LOOK_S):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        active = {f"rollout {rollout_id}": rollout_id for rollout_id in await self._rollouts.active()}
        self.errors = {name: error for name, error in self.errors.items() if name in active}
        for name, rollout_id in active.items():
            try:
                await self._rollouts.look(rollout_id)
                self.errors.pop(name, None)
            except POSTGRES_AWAY:
                raise
            except Exception as error:  # noqa: BLE001 - other rollouts must not wait for this one
                if name not in self.errors:
                    _LOG.error("rollout_not_decided", rollout_id=rollout_id, exc_info=error)
                self.errors[name] = f"{type(error).__name__}: {error}"
        DEGRADED.labels("rollouts").set(bool(self.errors))
