"""The worker's loops of webhooks. They send a message within a second of its commit."""

import asyncio

from app.core.loops import Loop, stop_if_cancelled
from app.webhooks import limits
from app.webhooks.dispatch import Dispatcher


class WebhookLoops:
    """Loops that may be cancelled at any point and may run in several workers."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def all(self) -> list[Loop]:
        """Return the loops that send what is due and thin the history."""
        return [
            Loop("webhooks", self._deliver),
            Loop("webhook history", self._dispatcher.thin, pause_s=limits.WEBHOOK_THIN_INTERVAL_S),
        ]

    async def _deliver(self) -> None:
        """Send what is due, at most `WEBHOOK_SENDING_MAX` at a time.

        Ends when an attempt cannot be recorded, because PostgreSQL is away. It first finishes the
        requests under way. A request that takes longer than `WEBHOOK_FINISH_S` is cut off and sent
        again when its lease ends.
        """
        sending: set[asyncio.Task[None]] = set()
        try:
            while True:
                stop_if_cancelled()
                free = limits.WEBHOOK_SENDING_MAX - len(sending)
                for claim in await self._dispatcher.claim(free) if free else []:
                    sending.add(asyncio.create_task(self._dispatcher.attempt(claim)))
                await asyncio.sleep(limits.WEBHOOK_POLL_S)
                for attempt in [task for task in sending if task.done()]:
                    sending.remove(attempt)
                    attempt.result()
        finally:
            if sending:
                await _finish(sending)


async def _finish(sending: set[asyncio.Task[None]]) -> None:
    _, late = await asyncio.wait(sending, timeout=limits.WEBHOOK_FINISH_S)
    for attempt in late:
        attempt.cancel()
    await asyncio.gather(*sending, return_exceptions=True)
