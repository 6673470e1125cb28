"""The worker's loops of webhooks: what is due is sent, within a second of its commit."""

import asyncio

from app.core import limits
from app.core.loops import Loop, stop_if_cancelled
from app.webhooks.dispatch import Dispatcher
from app.webhooks.model import Claim


class WebhookLoops:
    """May be cancelled at any point, and run in several workers at once."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def all(self) -> list[Loop]:
        """Send what is due, thin the history."""
        return [
            Loop("webhooks", self._deliver),
            Loop("webhook history", self._dispatcher.thin, pause_s=limits.WEBHOOK_THIN_INTERVAL_S),
        ]

    async def _deliver(self) -> None:
        """For ever: look for what is due while fewer than `WEBHOOK_SENDING_MAX` are on their way.

        An attempt that cannot be recorded ends all of this: PostgreSQL is away. What was cut off is sent
        again when its lease ends.
        """
        free = limits.WEBHOOK_SENDING_MAX

        async def attempt(claim: Claim) -> None:
            nonlocal free
            try:
                await self._dispatcher.attempt(claim)
            finally:
                free += 1

        try:
            async with asyncio.TaskGroup() as sending:
                while True:
                    stop_if_cancelled()
                    claims = await self._dispatcher.claim(free) if free else []
                    free -= len(claims)
                    for claim in claims:
                        sending.create_task(attempt(claim))
                    await asyncio.sleep(limits.WEBHOOK_POLL_S)
        except ExceptionGroup as group:
            raise group.exceptions[0] from group  # the health of the loop shows its words
