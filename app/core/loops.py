"""Background loops of a process. A loop that fails is reported and runs again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from random import Random
from typing import Self

import msgspec
import structlog

from app.core.backoff import Backoff
from app.core.clock import Clock
from app.core.limits import SHUTDOWN_GRACE_S, STEADY_S
from app.core.logs import brief
from app.core.outages import is_expected
from app.core.telemetry import DEGRADED

_LOG = structlog.get_logger(__name__)


class Loop(msgspec.Struct, frozen=True):
    """A loop that calls `run` again `pause_s` seconds after each return.

    A return is a success. `run` may also never return and end only with an exception.
    """

    name: str
    run: Callable[[], Awaitable[None]]
    pause_s: float = 0.0


def stop_if_cancelled() -> None:
    """Raise CancelledError if this task was cancelled and has not noticed. For endless loops.

    psycopg waits with `asyncio.wait_for`. Before Python 3.12 that function swallows a cancellation
    that comes at the moment of its result.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class LoopHealth(msgspec.Struct, frozen=True):
    """State of a loop. `error` is None while it works; `since` is the start of this state."""

    error: str | None
    since: datetime
    succeeded_at: datetime | None = None
    failures: int = 0


class Loops:
    """Asynchronous context that runs loops side by side and cancels them at its end.

    A loop that raises runs again after a growing wait. Its error stays in `health` and in the
    metric `wald_degraded{component="loop:NAME"}` until a run returns or lasts `STEADY_S`.
    """

    def __init__(self, loops: Sequence[Loop], *, clock: Clock, random: Random) -> None:
        self._loops = loops
        self._clock = clock
        self._random = random
        self._tasks: list[asyncio.Task[None]] = []
        self._health = {loop.name: LoopHealth(error=None, since=clock.now()) for loop in loops}

    def health(self) -> dict[str, LoopHealth]:
        """Return the state of each loop by its name."""
        return dict(self._health)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._repeat(loop), name=loop.name) for loop in self._loops]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _ended, stuck = await asyncio.wait(self._tasks, timeout=SHUTDOWN_GRACE_S)
            for task in stuck:
                _LOG.error("loop_does_not_stop", loop=task.get_name())

    async def _repeat(self, loop: Loop) -> None:
        backoff = Backoff(self._random)
        while True:
            stop_if_cancelled()
            steady = asyncio.get_running_loop().call_later(STEADY_S, self._works, loop.name, backoff)
            try:
                await loop.run()
            except Exception as error:  # noqa: BLE001 - any error is reported and the loop goes on
                self._fails(loop.name, error)
                pause_s = backoff.next_s()
            else:
                self._works(loop.name, backoff)
                pause_s = loop.pause_s
            finally:
                steady.cancel()
            await asyncio.sleep(pause_s)

    def _works(self, name: str, backoff: Backoff) -> None:
        backoff.reset()
        before, now = self._health[name], self._clock.now()
        if before.error is not None:
            _LOG.info("loop_works_again", loop=name, failed_since=before.since.isoformat())
        self._health[name] = msgspec.structs.replace(
            before, error=None, succeeded_at=now, since=before.since if before.error is None else now
        )
        DEGRADED.labels(f"loop:{name}").set(0)

    def _fails(self, name: str, error: Exception) -> None:
        before = self._health[name]
        text = brief(error)
        traced = error if before.error is None and not is_expected(error) else None
        _LOG.error("loop_failed", loop=name, error=text, exc_info=traced)
        self._health[name] = msgspec.structs.replace(
            before,
            error=text,
            since=before.since if before.error is not None else self._clock.now(),
            failures=before.failures + 1,
        )
        DEGRADED.labels(f"loop:{name}").set(1)
