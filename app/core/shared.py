"""A value that is computed once for many callers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Result of `compute`, which runs at most once every `max_age_s` seconds and never in parallel.

    Callers that arrive during a run wait for that run. The age counts from the start of the run. An
    error goes to all waiting callers and is not kept.
    """

    def __init__(self, compute: Callable[[], Awaitable[T]], *, max_age_s: float) -> None:
        self._compute = compute
        self._max_age_s = max_age_s
        self._run: asyncio.Task[T] | None = None
        self._begun_at = 0.0

    async def get(self) -> T:
        """Return the current value; raise what `compute` raises."""
        now = asyncio.get_running_loop().time()
        run = self._run
        if run is None or (run.done() and (_failed(run) or now - self._begun_at >= self._max_age_s)):
            self._begun_at = now
            run = self._run = asyncio.ensure_future(_awaited(self._compute))
        return await asyncio.shield(run)


async def _awaited(compute: Callable[[], Awaitable[T]]) -> T:
    return await compute()


def _failed(run: "asyncio.Task[T]") -> bool:
    return run.cancelled() or run.exception() is not None
