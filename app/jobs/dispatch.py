"""Runner of claimed jobs: many at a time in one task each, until it is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from app.core.loops import stop_if_cancelled

Job = TypeVar("Job")
Result = TypeVar("Result")


class JobRunner(Generic[Job, Result]):
    """Runs jobs side by side: `claim(free)` gets new ones, `attempt` runs one of them.

    `record` gets the results of each round together. An error of `claim`, `attempt` or `record`
    ends `run`, which first waits `finish_s` for the attempts that run, and records their results.
    Those that take longer are cancelled; another worker repeats them when their leases end.
    """

    def __init__(
        self,
        claim: Callable[[int], Awaitable[Sequence[Job]]],
        attempt: Callable[[Job], Awaitable[Result]],
        record: Callable[[Sequence[Result]], Awaitable[None]],
        *,
        jobs_max: int,
        poll_s: float,
        finish_s: float,
    ) -> None:
        self._claim = claim
        self._attempt = attempt
        self._record = record
        self._jobs_max = jobs_max
        self._poll_s = poll_s
        self._finish_s = finish_s

    async def run(self) -> None:
        """Run jobs until this task is cancelled or something fails."""
        running: set[asyncio.Task[Result]] = set()
        try:
            while True:
                stop_if_cancelled()
                free = self._jobs_max - len(running)
                for job in await self._claim(free) if free else []:
                    running.add(asyncio.create_task(self._run_one(job)))
                await asyncio.sleep(self._poll_s)
                ended = [task for task in running if task.done()]
                running.difference_update(ended)
                await self._collect(ended)
        finally:
            if running:
                await self._finish(running)

    async def _run_one(self, job: Job) -> Result:
        return await self._attempt(job)

    async def _collect(self, ended: Sequence["asyncio.Task[Result]"]) -> None:
        """Record the results of the tasks that worked, then raise the first error of the others."""
        worked = [task for task in ended if not task.cancelled() and task.exception() is None]
        if worked:
            await self._record([task.result() for task in worked])
        for task in ended:
            task.result()

    async def _finish(self, running: set["asyncio.Task[Result]"]) -> None:
        ended, late = await asyncio.wait(running, timeout=self._finish_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._collect([task for task in ended if not task.cancelled() and task.exception() is None])
