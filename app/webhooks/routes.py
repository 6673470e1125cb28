"""Webhooks over HTTP, for administrators. Needs the dependency `webhook_service: WebhookService`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Self

import msgspec
from litestar import delete, get, patch, post
from litestar.params import Parameter

from app.access.guards import requires
from app.access.model import Scope
from app.core.limits import PAGE_SIZE, PAGE_SIZE_MAX
from app.webhooks.model import Adapter, Delivery, Endpoint
from app.webhooks.service import EndpointChange, EndpointRequest, RotateRequest, WebhookService


class WebhookView(msgspec.Struct, frozen=True):
    """An endpoint without its secrets. Times that do not apply are null.

    `failing_since`: a delivery was given up then, and none has arrived since. `rotating_until`:
    until then the secret of before the last rotation signs as well.
    """

    id: int
    url: str
    adapter: Adapter
    events: tuple[str, ...]
    description: str
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: str | None
    failing_since: datetime | None
    rotating_until: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, endpoint: Endpoint) -> Self:
        """Return the view of a stored endpoint."""
        disabled = endpoint.disabled
        return cls(
            id=endpoint.id,
            url=endpoint.shown_url,
            adapter=endpoint.adapter,
            events=endpoint.events,
            description=endpoint.description,
            enabled=disabled is None,
            disabled_at=None if disabled is None else disabled.at,
            disabled_reason=None if disabled is None else disabled.reason,
            failing_since=endpoint.failing_since,
            rotating_until=endpoint.previous_until,
            created_at=endpoint.created_at,
        )


class WebhookList(msgspec.Struct, frozen=True):
    """All webhooks, oldest first."""

    webhooks: list[WebhookView]


class WebhookWithSecret(msgspec.Struct, frozen=True):
    """A webhook, and its new secret where we make it, which is shown this once."""

    webhook: WebhookView
    secret: str | None


class Pinged(msgspec.Struct, frozen=True):
    """The id of the test message, which is on its way."""

    webhook_id: str


class DeliveryPage(msgspec.Struct, frozen=True):
    """Deliveries, newest first. `next`: the id to pass as `after`; null on the last page."""

    deliveries: Sequence[Delivery]
    next: int | None


@post("/webhooks", guards=[requires(Scope.ADMIN)], status_code=201)
async def create_webhook(data: EndpointRequest, webhook_service: WebhookService) -> WebhookWithSecret:
    """Make a webhook. Its signing secret is in this answer and nowhere else."""
    endpoint, secret = await webhook_service.create(data)
    return WebhookWithSecret(WebhookView.of(endpoint), secret)


@get("/webhooks", guards=[requires(Scope.ADMIN)])
async def list_webhooks(webhook_service: WebhookService) -> WebhookList:
    """List the webhooks."""
    return WebhookList([WebhookView.of(endpoint) for endpoint in await webhook_service.list()])


@get("/webhooks/{webhook_id:int}", guards=[requires(Scope.ADMIN)])
async def get_webhook(webhook_id: int, webhook_service: WebhookService) -> WebhookView:
    """Read a webhook."""
    return WebhookView.of(await webhook_service.get(webhook_id))


@patch("/webhooks/{webhook_id:int}", guards=[requires(Scope.ADMIN)])
async def change_webhook(
    webhook_id: int, data: EndpointChange, webhook_service: WebhookService
) -> WebhookView:
    """Replace url, events or description; enable or disable, which gives up what was not delivered yet."""
    return WebhookView.of(await webhook_service.change(webhook_id, data))


@delete("/webhooks/{webhook_id:int}", guards=[requires(Scope.ADMIN)], status_code=204)
async def delete_webhook(webhook_id: int, webhook_service: WebhookService) -> None:
    """Forget a webhook with its deliveries."""
    await webhook_service.delete(webhook_id)


@post("/webhooks/{webhook_id:int}/rotate", guards=[requires(Scope.ADMIN)], status_code=200)
async def rotate_webhook(
    webhook_id: int, webhook_service: WebhookService, data: RotateRequest | None = None
) -> WebhookWithSecret:
    """Take a new secret; a signing secret signs as well for a day after it was replaced."""
    endpoint, secret = await webhook_service.rotate(webhook_id, data or RotateRequest())
    return WebhookWithSecret(WebhookView.of(endpoint), secret)


@post("/webhooks/{webhook_id:int}/ping", guards=[requires(Scope.ADMIN)], status_code=202)
async def ping_webhook(webhook_id: int, webhook_service: WebhookService) -> Pinged:
    """Send a test event, whatever the webhook filters. 409 when it is disabled."""
    return Pinged(await webhook_service.ping(webhook_id))


@get("/webhooks/{webhook_id:int}/deliveries", guards=[requires(Scope.ADMIN)])
async def list_deliveries(
    webhook_id: int,
    webhook_service: WebhookService,
    after: Annotated[int | None, Parameter(ge=1, le=2**63 - 1)] = None,
    limit: Annotated[int, Parameter(ge=1, le=PAGE_SIZE_MAX)] = PAGE_SIZE,
) -> DeliveryPage:
    """List what was and will be sent to a webhook, with the last attempts of each, a page at a time."""
    page, following = await webhook_service.deliveries(webhook_id, after=after, limit=limit)
    return DeliveryPage(page, following)


@post("/deliveries/{delivery_id:int}/redeliver", guards=[requires(Scope.ADMIN)], status_code=202)
async def redeliver(delivery_id: int, webhook_service: WebhookService) -> Delivery:
    """Send a message again with the id it had. 409 while its webhook is disabled, or it is being sent."""
    return await webhook_service.redeliver(delivery_id)


ROUTES: Final = [
    create_webhook,
    list_webhooks,
    get_webhook,
    change_webhook,
    delete_webhook,
    rotate_webhook,
    ping_webhook,
    list_deliveries,
    redeliver,
]
