"""Use cases of webhooks: endpoints, their secrets, and their deliveries."""

import secrets
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from app.core.clock import Clock
from app.core.errors import Conflict, InvalidInput
from app.core.limits import DESCRIPTION_LENGTH_MAX
from app.core.text import check_storable
from app.webhooks import limits
from app.webhooks.destination import NetworkPolicy
from app.webhooks.model import (
    SECRET_USE,
    Adapter,
    Delivery,
    Endpoint,
    SecretUse,
    is_event_filter,
)
from app.webhooks.outbox import body_of, write
from app.webhooks.signature import SECRET_BYTES, secret_text
from app.webhooks.store import WebhookStore

PING: Final = "webhook.ping"
"""Type of test events. Endpoints get them on request, whatever their filters."""

Url = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.WEBHOOK_URL_LENGTH_MAX)]
Events = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=limits.WEBHOOK_EVENTS_MAX)]
Description = Annotated[str, msgspec.Meta(max_length=DESCRIPTION_LENGTH_MAX)]
Secret = Annotated[
    str, msgspec.Meta(min_length=1, max_length=limits.WEBHOOK_SECRET_LENGTH_MAX, pattern=r"^[!-~]+$(?!\n)")
]


class EndpointRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request for a new endpoint. `secret` is the receiver's: a routing key or a token."""

    url: Url
    adapter: Adapter = Adapter.STANDARD
    events: Events = ("*",)
    description: Description = ""
    secret: Secret | None = None


class EndpointChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fields to replace; absent fields stay. `enabled` says whether the endpoint gets events."""

    url: Url | UnsetType = UNSET
    events: Events | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class RotateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new secret of a receiver that issues its own."""

    secret: Secret | None = None


class WebhookService:
    """Use cases that change an endpoint in one transaction, under the lock of its row."""

    def __init__(self, store: WebhookStore, policy: NetworkPolicy, clock: Clock) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock

    async def create(self, request: EndpointRequest) -> tuple[Endpoint, str | None]:
        """Create an endpoint, and return it with the secret if we make it. It is shown only once.

        Raises InvalidInput naming the field; Conflict when there are `WEBHOOK_ENDPOINTS_MAX`.
        """
        self._policy.check_url(request.url)
        _check_events(request.events)
        check_storable(request.description, "description")
        secret, shown = _new_secret(request.adapter, request.secret)
        async with self._store.change() as connection:
            if await self._store.count_endpoints(connection) >= limits.WEBHOOK_ENDPOINTS_MAX:
                raise Conflict(f"there are {limits.WEBHOOK_ENDPOINTS_MAX} webhooks already: delete one first")
            endpoint = await self._store.insert_endpoint(
                connection,
                url=request.url,
                adapter=request.adapter,
                events=request.events,
                description=request.description,
                secret=secret,
                at=self._clock.now(),
            )
        return endpoint, shown

    async def list(self) -> list[Endpoint]:
        """Return all endpoints, oldest first."""
        return await self._store.endpoints()

    async def get(self, endpoint_id: int) -> Endpoint:
        """Return the endpoint with this id. Raises NotFound."""
        return await self._store.endpoint(endpoint_id)

    async def change(self, endpoint_id: int, change: EndpointChange) -> Endpoint:
        """Replace fields. Disabling gives up open deliveries; enabling clears past failures.

        Raises NotFound; InvalidInput naming the field.
        """
        replaced: dict[str, Any] = {}
        if change.url is not UNSET:
            self._policy.check_url(change.url)
            replaced["url"] = change.url
        if change.events is not UNSET:
            _check_events(change.events)
            replaced["events"] = list(change.events)
        if change.description is not UNSET:
            check_storable(change.description, "description")
            replaced["description"] = change.description
        if change.enabled is True:
            replaced |= {"disabled_at": None, "disabled_reason": None, "failing_since": None}
        now = self._clock.now()
        async with self._store.change() as connection:
            endpoint, _ = await self._store.lock_endpoint(connection, endpoint_id)
            if change.enabled is False and endpoint.disabled is None:
                replaced |= {"disabled_at": now, "disabled_reason": "by an administrator"}
                await self._store.give_up_open(connection, endpoint_id, now)
            if not replaced:
                return endpoint
            return await self._store.update_endpoint(connection, endpoint_id, replaced)

    async def delete(self, endpoint_id: int) -> None:
        """Delete an endpoint with its deliveries. Raises NotFound."""
        await self._store.delete_endpoint(endpoint_id)

    async def rotate(self, endpoint_id: int, request: RotateRequest) -> tuple[Endpoint, str | None]:
        """Replace the secret, and return the endpoint with the secret if we make it.

        If we sign, the old secret also signs for `WEBHOOK_SECRET_OVERLAP_S`. Raises NotFound;
        InvalidInput naming the field `secret`.
        """
        now = self._clock.now()
        async with self._store.change() as connection:
            endpoint, before = await self._store.lock_endpoint(connection, endpoint_id)
            secret, shown = _new_secret(endpoint.adapter, request.secret)
            if secret is None:
                raise InvalidInput(
                    f"{endpoint.adapter} has no secret to rotate: change its url"
                    if SECRET_USE[endpoint.adapter] is SecretUse.NONE
                    else "is required: the receiver issues it",
                    field="secret",
                )
            replaced: dict[str, Any] = {"secret": secret}
            if shown is not None:
                until = now + timedelta(seconds=limits.WEBHOOK_SECRET_OVERLAP_S)
                replaced |= {"previous_secret": before.current, "previous_until": until}
            return await self._store.update_endpoint(connection, endpoint_id, replaced), shown

    async def ping(self, endpoint_id: int) -> str:
        """Send a test event and return its webhook id. Raises NotFound; Conflict if disabled."""
        now = self._clock.now()
        async with self._store.change() as connection:
            endpoint, _ = await self._store.lock_endpoint(connection, endpoint_id)
            _check_enabled(endpoint)
            data = {"summary": f"Test of webhook {endpoint_id}", "webhook": endpoint_id}
            return await write(
                connection,
                key=f"webhooks:ping:{secrets.token_hex(16)}",
                event_type=PING,
                body=body_of(PING, data, now),
                at=now,
                endpoint_ids=[endpoint_id],
            )

    async def deliveries(
        self, endpoint_id: int, *, after: int | None, limit: int
    ) -> tuple[Sequence[Delivery], int | None]:
        """Return a page of deliveries, newest first, and the next `after`. Raises NotFound."""
        await self._store.endpoint(endpoint_id)
        deliveries = await self._store.deliveries(endpoint_id, after=after, limit=limit + 1)
        page = deliveries[:limit]
        return page, page[-1].id if len(deliveries) > limit else None

    async def redeliver(self, delivery_id: int) -> Delivery:
        """Send a message again under its id, at once and then by the whole schedule.

        Raises NotFound; Conflict if the endpoint is disabled or the message is being sent now.
        """
        delivery = await self._store.delivery(delivery_id)
        async with self._store.change() as connection:
            endpoint, _ = await self._store.lock_endpoint(connection, delivery.endpoint_id)
            _check_enabled(endpoint)
            if not await self._store.reopen(connection, delivery_id, self._clock.now()):
                raise Conflict(f"delivery {delivery_id} is being sent now; try again later")
        return await self._store.delivery(delivery_id)


def _check_events(events: Iterable[str]) -> None:
    for index, event in enumerate(events):
        if not is_event_filter(event):
            raise InvalidInput("must be an event type, PREFIX.* or *", field=f"events[{index}]")


def _check_enabled(endpoint: Endpoint) -> None:
    if endpoint.disabled is not None:
        raise Conflict(f"webhook {endpoint.id} is disabled ({endpoint.disabled.reason}): enable it first")


def _new_secret(adapter: Adapter, given: str | None) -> tuple[str | None, str | None]:
    """Return the secret to store, and the secret to show if we made it."""
    match SECRET_USE[adapter]:
        case SecretUse.MADE | SecretUse.NONE if given is not None:
            raise InvalidInput(f"must not be given for {adapter}", field="secret")
        case SecretUse.GIVEN if given is None:
            raise InvalidInput(f"is required for {adapter}", field="secret")
        case SecretUse.MADE:
            made = secret_text(secrets.token_bytes(SECRET_BYTES))
            return made, made
        case _:
            return given, None
