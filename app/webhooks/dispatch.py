"""Use cases of delivery: claim what is due, attempt it, and record the result."""

from datetime import datetime, timedelta
from random import Random

import structlog

from app.core import telemetry
from app.core.clock import Clock
from app.webhooks import limits
from app.webhooks.adapters import post_for
from app.webhooks.model import Attempt, Claim, DeliveryState, Endpoint
from app.webhooks.schedule import Answer, Settled, settle
from app.webhooks.sender import Sender
from app.webhooks.store import WebhookStore

_LOG = structlog.get_logger(__name__)


class Dispatcher:
    """Sender of deliveries. Several may run at once; each delivery is leased to one of them.

    If a worker dies between sending and recording, its lease expires and the message is sent again
    with the same id. So a message may arrive twice, but is never lost.
    """

    def __init__(
        self,
        store: WebhookStore,
        sender: Sender,
        clock: Clock,
        random: Random,
        *,
        wall: Clock | None = None,
    ) -> None:
        self._wall = wall or clock  # for signatures, which receivers compare with their wall clock
        self._store = store
        self._sender = sender
        self._clock = clock
        self._random = random

    async def claim(self, claims_max: int) -> list[Claim]:
        """Claim up to `claims_max` due deliveries. This worker must attempt them now."""
        return await self._store.claim(now=self._clock.now(), claims_max=claims_max)

    async def attempt(self, claim: Claim) -> None:
        """Send a claimed delivery and record the answer."""
        at = self._clock.now()
        answer = await self._send(claim, at)
        duration_ms = round((self._clock.now() - at) / timedelta(milliseconds=1))
        await self._record(
            claim, answer, Attempt(claim.attempt, at, answer.status, answer.error, duration_ms)
        )

    async def thin(self) -> None:
        """Delete some of the messages older than `WEBHOOK_HISTORY_S`."""
        await self._store.thin(self._clock.now() - timedelta(seconds=limits.WEBHOOK_HISTORY_S))

    async def _send(self, claim: Claim, at: datetime) -> Answer:
        try:
            secrets = claim.secrets.in_force(at)
            post = post_for(claim.adapter, claim.message, secrets=secrets, at=self._wall.now())
            return await self._sender.send(claim.url, post)
        except Exception as error:  # noqa: BLE001 - one bad message must not stop the others
            _LOG.error("webhook_not_sendable", delivery=claim.delivery_id, exc_info=error)
            return Answer(None, f"not sent: {type(error).__name__}")

    async def _record(self, claim: Claim, answer: Answer, attempt: Attempt) -> None:
        """Record an attempt, unless another worker has the lease or the endpoint is deleted."""
        settled = settle(claim.step, answer, jitter=self._random.random())
        async with self._store.change() as connection:
            endpoint = await self._store.lock_sent_to(connection, claim.endpoint_id, whole=answer.gone)
            if endpoint is None or not await self._store.lock_claimed(connection, claim):
                return
            now = self._clock.now()
            if endpoint.disabled is not None and settled.state is DeliveryState.FAILED:
                settled = Settled(DeliveryState.GIVEN_UP, claim.step)
            await self._store.settle(connection, claim, settled, now)
            await self._store.log_attempt(connection, claim.delivery_id, attempt)
            if answer.gone and endpoint.disabled is None:
                await self._store.give_up_open(connection, claim.endpoint_id, now)
            if changes := _changes(endpoint, settled, answer, now):
                await self._store.update_endpoint(connection, claim.endpoint_id, changes)
        telemetry.WEBHOOK_DELIVERIES.labels(settled.state).inc()
        if settled.state is DeliveryState.GIVEN_UP:
            _LOG.warning(
                "webhook_given_up",
                webhook=claim.endpoint_id,
                delivery=claim.delivery_id,
                webhook_id=claim.message.webhook_id,
                reason=answer.error,
            )


def _changes(endpoint: Endpoint, settled: Settled, answer: Answer, now: datetime) -> dict[str, object]:
    """Return the changes of an endpoint after an attempt: failing, working again, or gone."""
    changes: dict[str, object] = {}
    if settled.state is DeliveryState.DELIVERED and endpoint.failing_since is not None:
        changes["failing_since"] = None
    if settled.state is DeliveryState.GIVEN_UP and endpoint.failing_since is None:
        changes["failing_since"] = now
    if answer.gone and endpoint.disabled is None:
        changes |= {"disabled_at": now, "disabled_reason": "the receiver answered 410 Gone"}
    return changes
