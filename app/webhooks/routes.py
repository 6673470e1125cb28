"""Webhooks over HTTP, for administrators. Needs a dependency `webhook_service`."""

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

    `failing_since` is the time when a delivery was given up, if none has arrived since. Until
    `rotating_until`, the secret from before the last rotation also signs.
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
    """A webhook, and its new secret if Wald makes it. The secret is shown only once."""

    webhook: WebhookView
    secret: str | None


class Pinged(msgspec.Struct, frozen=True):
    """Id of the test message that is being sent."""

    webhook_id: str


class DeliveryPage(msgspec.Struct, frozen=True):
    """Deliveries, newest first. Pass `next` as `after`; it is null on the last page."""

    deliveries: Sequence[Delivery]
    next: int | None


@post("/webhooks", guards=[requires(Scope.ADMIN)], status_code=201)
async def create_webhook(data: EndpointRequest, webhook_service: WebhookService) -> WebhookWithSecret:
    """Create a webhook. Only this answer contains its signing secret."""
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
    """Change a webhook. Disabling gives up its open deliveries."""
    return WebhookView.of(await webhook_service.change(webhook_id, data))


@delete("/webhooks/{webhook_id:int}", guards=[requires(Scope.ADMIN)], status_code=204)
async def delete_webhook(webhook_id: int, webhook_service: WebhookService) -> None:
    """Delete a webhook with its deliveries."""
    await webhook_service.delete(webhook_id)


@post("/webhooks/{webhook_id:int}/rotate", guards=[requires(Scope.ADMIN)], status_code=200)
async def rotate_webhook(
    webhook_id: int, webhook_service: WebhookService, data: RotateRequest | None = None
) -> WebhookWithSecret:
    """Replace the secret. An old signing secret also signs for one more day."""
    endpoint, secret = await webhook_service.rotate(webhook_id, data or RotateRequest())
    return WebhookWithSecret(WebhookView.of(endpoint), secret)


@post("/webhooks/{webhook_id:int}/ping", guards=[requires(Scope.ADMIN)], status_code=202)
async def ping_webhook(webhook_id: int, webhook_service: WebhookService) -> Pinged:
    """Send a test event, whatever the filters of the webhook. 409 if it is disabled."""
    return Pinged(await webhook_service.ping(webhook_id))


@get("/webhooks/{webhook_id:int}/deliveries", guards=[requires(Scope.ADMIN)])
async def list_deliveries(
    webhook_id: int,
    webhook_service: WebhookService,
    after: Annotated[int | None, Parameter(ge=1, le=2**63 - 1)] = None,
    limit: Annotated[int, Parameter(ge=1, le=PAGE_SIZE_MAX)] = PAGE_SIZE,
) -> DeliveryPage:
    """List the deliveries of a webhook, each with its last attempts, page by page."""
    page, following = await webhook_service.deliveries(webhook_id, after=after, limit=limit)
    return DeliveryPage(page, following)


@post("/deliveries/{delivery_id:int}/redeliver", guards=[requires(Scope.ADMIN)], status_code=202)
async def redeliver(delivery_id: int, webhook_service: WebhookService) -> Delivery:
    """Send a message again under its id. 409 while its webhook is disabled or it is being sent."""
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
