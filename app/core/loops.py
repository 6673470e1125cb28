"""Background loops of a process: run again when they fail, and never failing unseen."""

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
    """`run` is called again and again, `pause_s` seconds after each return.

    Returning is success. It may as well run for ever and end only with an exception.
    """

    name: str
    run: Callable[[], Awaitable[None]]
    pause_s: float = 0.0


def stop_if_cancelled() -> None:
    """Raise CancelledError if this task was cancelled and has not noticed; for loops that never end.

    `asyncio.wait_for` before Python 3.12, which psycopg waits with, returns as if nothing had
    happened when it is cancelled at the moment its result arrives.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class LoopHealth(msgspec.Struct, frozen=True):
    """How a loop is doing. `error` is None while it works; `since` says since when it is as it is."""

    error: str | None
    since: datetime
    succeeded_at: datetime | None = None
    failures: int = 0


class Loops:
    """Runs loops side by side as an asynchronous context; at its end they are cancelled.

    A loop that raises is run again after a growing wait. Its error stays in `health` and in the
    metric `wald_degraded{component="loop:NAME"}` until a run has returned, or has lasted
    `STEADY_S`.
    """

    def __init__(self, loops: Sequence[Loop], *, clock: Clock, random: Random) -> None:
        self._loops = loops
        self._clock = clock
        self._random = random
        self._tasks: list[asyncio.Task[None]] = []
        self._health = {loop.name: LoopHealth(error=None, since=clock.now()) for loop in loops}

    def health(self) -> dict[str, LoopHealth]:
        """By the names of the loops."""
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
            except Exception as error:  # noqa: BLE001  (whatever it is, it is shown and the loop goes on)
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
