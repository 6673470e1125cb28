"""The worker's loop of rollouts: it looks at each after a commit of the ledger, and every second."""

import asyncio
from collections.abc import Iterable

from app.allocation.limits import REALLOCATION_INTERVAL_S
from app.core.items import Items
from app.core.loops import Loop
from app.rollouts import limits
from app.rollouts.service import RolloutService


class RolloutLoops:
    """The loops, which may be cancelled at any point and run in several workers at once."""

    def __init__(self, rollouts: RolloutService) -> None:
        self._items = Items("rollouts", "rollout_not_decided")
        self._rollouts = rollouts
        self._wake = asyncio.Event()

    @property
    def errors(self) -> dict[str, str]:
        """Errors of the rollouts that cannot be decided at present, by name."""
        return self._items.errors

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
        await self._items.each(active, self._rollouts.look)
