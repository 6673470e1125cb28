"""The worker's loops of webhooks. They send a message within a second of its commit."""

from collections.abc import Sequence

from app.core.loops import Loop
from app.jobs.dispatch import JobRunner
from app.webhooks import limits
from app.webhooks.dispatch import Dispatcher
from app.webhooks.model import Claim


class WebhookLoops:
    """Loops that may be cancelled at any point and may run in several workers."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._runner: JobRunner[Claim, None] = JobRunner(
            dispatcher.claim,
            dispatcher.attempt,
            _recorded,
            jobs_max=limits.WEBHOOK_SENDING_MAX,
            poll_s=limits.WEBHOOK_POLL_S,
            finish_s=limits.WEBHOOK_FINISH_S,
        )

    def all(self) -> list[Loop]:
        """Return the loops that send what is due and thin the history."""
        return [
            Loop("webhooks", self._runner.run),
            Loop("webhook history", self._dispatcher.thin, pause_s=limits.WEBHOOK_THIN_INTERVAL_S),
        ]


async def _recorded(_: Sequence[None]) -> None:
    """Do nothing: the dispatcher records each attempt itself, under the lock of its endpoint."""
