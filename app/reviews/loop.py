"""The worker's loops of reviews: draw the sample, end silent leases, and send labels as signals."""

from collections.abc import Callable
from time import monotonic

import structlog

from app.core.clock import Clock
from app.core.items import Items
from app.core.loops import Loop
from app.core.telemetry import REVIEW_ITEMS, REVIEW_LEASES_ENDED, REVIEWS_SAMPLED
from app.reviews import limits
from app.reviews.claim_store import ClaimStore
from app.reviews.lease import LeaseWatch
from app.reviews.model import ItemState, Queue
from app.reviews.reading_store import ReadingStore
from app.reviews.sample_store import SampleStore
from app.reviews.signal_sender import SignalSender

_LOG = structlog.get_logger(__name__)


class ReviewLoops:
    """The loops, which may be cancelled at any point and run in several workers at once.

    No lease is compared with a clock: a lease ends if this process saw no sign of its reviewer for
    as long as the lease lasts, by its own counter. So a worker that starts gives every lease its
    whole time again.
    """

    def __init__(
        self,
        stores: tuple[SampleStore, ClaimStore, ReadingStore],
        sender: SignalSender,
        clock: Clock,
        counter_s: Callable[[], float] = monotonic,
    ) -> None:
        self._items = Items("reviews", "review_sample_not_drawn")
        self._sample, self._claims, self._reading = stores
        self._sender = sender
        self._clock = clock
        self._counter_s = counter_s
        self._watch = LeaseWatch()

    @property
    def errors(self) -> dict[str, str]:
        """Errors of the experiments whose sample cannot be drawn at present, by name."""
        return self._items.errors

    def all(self) -> list[Loop]:
        """Return the loops."""
        return [
            Loop("review sample", self.draw, pause_s=limits.REVIEW_SAMPLE_S),
            Loop("review leases", self.end_leases, pause_s=limits.REVIEW_LEASE_LOOK_S),
            Loop("review signals", self.send_signals, pause_s=limits.REVIEW_SIGNAL_S),
        ]

    async def draw(self) -> None:
        """Draw from all responses that are stored by now, and count the items."""
        names = {f"reviews of experiment {number}": number for number in await self._sample.experiments()}
        await self._items.each(names, self._draw)
        counts = await self._reading.counts()
        for queue in Queue:
            for state in ItemState:
                REVIEW_ITEMS.labels(queue, state).set(counts.get((queue, state), 0))

    async def end_leases(self) -> None:
        """End the leases whose reviewers gave no sign for too long."""
        active = await self._claims.active_leases()
        for lease in self._watch.silent(active, self._counter_s()):
            if await self._claims.end(lease):
                REVIEW_LEASES_ENDED.inc()
                _LOG.info("review_lease_ended", item=lease.item_id, reviewer=lease.reviewer)

    async def send_signals(self) -> None:
        """Send all labels that are not signals yet."""
        while await self._sender.send_due():
            pass

    async def _draw(self, experiment_id: int) -> None:
        while (drawn := await self._sample.sample(experiment_id, self._clock.now())).responses:
            REVIEWS_SAMPLED.labels("sampled").inc(drawn.sampled)
            REVIEWS_SAMPLED.labels("passed").inc(drawn.responses - drawn.sampled)
