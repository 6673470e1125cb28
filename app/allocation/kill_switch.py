"""The kill switch: the control everywhere within a second, also while PostgreSQL is away."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.allocation.kill_store import Kill, KillStore
from app.core import limits
from app.core.clock import Clock
from app.core.errors import Unavailable
from app.core.text import check_reason
from app.experiments.checks import possible, unknown
from app.experiments.model import Experiment

_LOG: Final = structlog.get_logger(__name__)
_AWAY: Final = (SQLAlchemyError, OSError, TimeoutError)


class Killed(msgspec.Struct, frozen=True):
    """What became of a kill.

    `applied`: servers have it, or will within a second. `recorded`: it survives the loss of Valkey. What is
    not yet is made up for by the worker as soon as the engine is back.
    """

    experiment: str
    killed: bool
    applied: bool
    recorded: bool


class KillSwitch:
    """A kill goes to Valkey first, which all servers hear, and to PostgreSQL, which keeps it."""

    def __init__(self, store: KillStore, clock: Clock, on_change: Callable[[int], Awaitable[object]]) -> None:
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._late: set[asyncio.Task[Experiment | None]] = set()

    async def kill(self, key: str, *, by: str, reason: str) -> Killed:
        """Answer the control from now on, whatever the experiment says. Twice is as good as once.

        Raises InvalidInput without a reason; NotFound; Unavailable if both engines are away.
        """
        kill = Kill(by, check_reason(reason), self._clock.now())
        applied = await self._apply(possible(key), kill)
        recorded = await self._record(key, kill)
        if not (applied or recorded):
            raise Unavailable("neither Valkey nor PostgreSQL could be reached")
        return Killed(key, killed=True, applied=applied, recorded=recorded)

    async def revive(self, key: str, *, by: str, reason: str) -> Killed:
        """Serve again as the experiment says.

        Raises InvalidInput without a reason; NotFound; Unavailable if either engine is away: what is not
        forgotten everywhere would come back.
        """
        kill = Kill(by, check_reason(reason), self._clock.now())
        waiting = (await self._store.waiting()).get(possible(key))
        try:
            if waiting is not None:
                await self._in_time(self._store.record(key, waiting))
            experiment = await self._in_time(self._store.revive(key, kill))
        except _AWAY as error:
            raise Unavailable(f"PostgreSQL does not answer, the kill stands: {error!r}") from error
        if experiment is None:
            raise unknown(key)
        await self._store.take_away(key)
        await self._announce(experiment.id)
        return Killed(key, killed=False, applied=True, recorded=True)

    async def record_waiting(self) -> None:
        """Keep the kills that came while PostgreSQL was away. Raises Unavailable."""
        for key, kill in (await self._store.waiting()).items():
            experiment = await self._store.record(key, kill)
            if experiment is not None:
                await self._on_change(experiment.id)
            await self._store.take_away(key)

    async def _apply(self, key: str, kill: Kill) -> bool:
        try:
            if not await self._store.is_published(key):
                raise unknown(key)
            await self._store.put(key, kill)
        except Unavailable:
            return False
        return True

    async def _record(self, key: str, kill: Kill) -> bool:
        try:
            experiment = await self._in_time(self._store.record(key, kill))
        except _AWAY as error:
            _LOG.warning("kill_not_recorded_yet", experiment=key, reason=repr(error))
            return False
        if experiment is None:
            raise unknown(key)
        await self._announce(experiment.id)
        return True

    async def _in_time(self, asked: Coroutine[Any, Any, Experiment | None]) -> Experiment | None:
        """The answer of PostgreSQL. Raises TimeoutError, and then does not wait for the end of giving up.

        That takes as long as a connection of the pool does, which for one that hangs is many seconds.
        """
        task = asyncio.ensure_future(asked)
        done, _ = await asyncio.wait({task}, timeout=limits.KILL_RECORD_S)
        if not done:
            task.cancel()
            self._late.add(task)
            task.add_done_callback(self._forget)
            raise TimeoutError(f"no answer within {limits.KILL_RECORD_S:g} s")
        return task.result()

    def _forget(self, task: "asyncio.Task[Experiment | None]") -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # seen, or asyncio would complain

    async def _announce(self, experiment_id: int) -> None:
        try:
            await self._on_change(experiment_id)
        except Exception as error:  # noqa: BLE001 - it is kept, and its publication is due
            _LOG.warning("publication_left_to_worker", experiment_id=experiment_id, reason=repr(error))
