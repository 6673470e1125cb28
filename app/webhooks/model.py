"""Types of webhooks: endpoints, messages, deliveries, and filters of events. Pure."""

import re
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec


class Adapter(StrEnum):
    """Format that a receiver understands."""

    STANDARD = "standard"  # Standard Webhooks: the event itself, signed
    SLACK = "slack"  # incoming webhook
    PAGERDUTY = "pagerduty"  # Events API v2
    ALERTMANAGER = "alertmanager"  # POST /api/v2/alerts
    GITHUB = "github"  # repository dispatch


class SecretUse(StrEnum):
    """Origin of the secret of an endpoint."""

    MADE = "made"  # Wald creates it; the receiver verifies signatures with it
    GIVEN = "given"  # the receiver issues it, to authenticate Wald
    OPTIONAL = "optional"  # like `given`, if the receiver wants one
    NONE = "none"  # the URL itself is the secret


SECRET_USE: Final = {
    Adapter.STANDARD: SecretUse.MADE,
    Adapter.SLACK: SecretUse.NONE,
    Adapter.PAGERDUTY: SecretUse.GIVEN,
    Adapter.ALERTMANAGER: SecretUse.OPTIONAL,
    Adapter.GITHUB: SecretUse.GIVEN,
}


class DeliveryState(StrEnum):
    """State of one message for one endpoint."""

    PENDING = "pending"  # no attempt yet, or reopened -> delivered | failed | given_up
    DELIVERED = "delivered"  # the receiver answered 2xx
    FAILED = "failed"  # the last attempt failed; another follows -> delivered | failed | given_up
    GIVEN_UP = "given_up"  # no further attempt; an operator may reopen it -> pending


OPEN_STATES: Final = frozenset({DeliveryState.PENDING, DeliveryState.FAILED})
"""States with another attempt to come."""


class Disabled(msgspec.Struct, frozen=True):
    """Time and reason since which an endpoint gets nothing."""

    at: datetime
    reason: str


class Endpoint(msgspec.Struct, frozen=True):
    """A receiver, without its secrets.

    `events` are event types, `PREFIX.*` or `*`. `failing_since` is the time when a delivery was
    given up, unless a later one arrived. Until `previous_until`, the secret from before the last
    rotation signs too.
    """

    id: int
    url: str
    adapter: Adapter
    events: tuple[str, ...]
    description: str
    created_at: datetime
    disabled: Disabled | None = None
    failing_since: datetime | None = None
    previous_until: datetime | None = None

    @property
    def shown_url(self) -> str:
        """URL without its secret part. For Slack that is all but the host."""
        if SECRET_USE[self.adapter] is not SecretUse.NONE:
            return self.url
        return "/".join([*self.url.split("/", 3)[:3], "…"])


class Secrets(msgspec.Struct, frozen=True):
    """Secrets of one endpoint. Its `repr` hides them."""

    current: str | None
    previous: str | None = None
    previous_until: datetime | None = None

    def in_force(self, now: datetime) -> tuple[str, ...]:
        """Return the current secret, then the previous one while it still signs."""
        rotating = self.previous_until is not None and now < self.previous_until
        return tuple(
            secret for secret in (self.current, self.previous if rotating else None) if secret is not None
        )

    def __repr__(self) -> str:
        return "Secrets(…)"


class Message(msgspec.Struct, frozen=True):
    """One event, the same for all receivers. `body` is `{"type", "timestamp", "data"}` in JSON."""

    id: UUID
    type: str
    body: str
    created_at: datetime

    @property
    def webhook_id(self) -> str:
        """Id by which receivers recognise repeats; the same in every attempt."""
        return webhook_id(self.id)


class Claim(msgspec.Struct, frozen=True):
    """A delivery leased to this worker. `attempt` counts from 1 and fences its record."""

    delivery_id: int
    endpoint_id: int
    attempt: int
    step: int
    url: str
    adapter: Adapter
    secrets: Secrets
    message: Message


class Attempt(msgspec.Struct, frozen=True):
    """One attempt. `status` is that of the answer; null without one, and `error` says why."""

    number: int
    at: datetime
    status: int | None
    error: str | None
    duration_ms: int


class Delivery(msgspec.Struct, frozen=True):
    """One message for one endpoint. `attempts` are the last ones, newest first."""

    id: int
    endpoint_id: int
    webhook_id: str
    type: str
    state: DeliveryState
    created_at: datetime
    next_attempt_at: datetime | None
    attempts: tuple[Attempt, ...] = ()


def webhook_id(message_id: UUID) -> str:
    """Return the id of a message as receivers see it."""
    return f"msg_{message_id.hex}"


def is_event_type(text: str) -> bool:
    """Return whether a text is words of a-z, 0-9 and _ joined by dots, at most 128 characters."""
    return _EVENT_TYPE.fullmatch(text) is not None


def is_event_filter(text: str) -> bool:
    """Return whether a text is an event type, an event type with `.*`, or `*`."""
    return text == "*" or is_event_type(text.removesuffix(".*"))


def wants(events: Iterable[str], event_type: str) -> bool:
    """Return whether any filter admits the type.

    `rollout.*` admits `rollout.advanced`, but not `rollout` itself.
    """
    return any(
        event in {"*", event_type} or (event.endswith(".*") and event_type.startswith(event[:-1]))
        for event in events
    )


_EVENT_TYPE: Final = re.compile(r"(?=.{1,128}\Z)[a-z0-9_]+(\.[a-z0-9_]+)*")
