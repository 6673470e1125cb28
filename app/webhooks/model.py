"""The words of webhooks: endpoints, messages, deliveries, and who wants which event. Pure."""

import re
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec


class Adapter(StrEnum):
    """What a receiver understands."""

    STANDARD = "standard"  # Standard Webhooks: the event itself, signed
    SLACK = "slack"  # incoming webhook
    PAGERDUTY = "pagerduty"  # Events API v2
    ALERTMANAGER = "alertmanager"  # POST /api/v2/alerts
    GITHUB = "github"  # repository dispatch


class SecretUse(StrEnum):
    """Where the secret of an endpoint comes from."""

    MADE = "made"  # by us; the receiver verifies signatures with it
    GIVEN = "given"  # by the receiver, which knows us by it
    OPTIONAL = "optional"  # as given, where the receiver wants one
    NONE = "none"  # the URL itself is the secret


SECRET_USE: Final = {
    Adapter.STANDARD: SecretUse.MADE,
    Adapter.SLACK: SecretUse.NONE,
    Adapter.PAGERDUTY: SecretUse.GIVEN,
    Adapter.ALERTMANAGER: SecretUse.OPTIONAL,
    Adapter.GITHUB: SecretUse.GIVEN,
}


class DeliveryState(StrEnum):
    """Where one message is on its way to one endpoint."""

    PENDING = "pending"  # not attempted yet, or to be sent again -> delivered | failed | given_up
    DELIVERED = "delivered"  # answered 2xx
    FAILED = "failed"  # the last attempt failed, another will be made -> delivered | failed | given_up
    GIVEN_UP = "given_up"  # no attempt will be made; by hand -> pending


OPEN_STATES: Final = frozenset({DeliveryState.PENDING, DeliveryState.FAILED})
"""States in which another attempt will be made."""


class Disabled(msgspec.Struct, frozen=True):
    """Since when nothing is sent to an endpoint, and why."""

    at: datetime
    reason: str


class Endpoint(msgspec.Struct, frozen=True):
    """A receiver, without its secrets.

    `events` are event types, `PREFIX.*` or `*`. `failing_since`: when a delivery was given up,
    unless one arrived since. `previous_until`: until then the secret before the last rotation signs
    as well.
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
        """The URL without what is secret in it: of Slack's all but the host."""
        if SECRET_USE[self.adapter] is not SecretUse.NONE:
            return self.url
        return "/".join([*self.url.split("/", 3)[:3], "…"])


class Secrets(msgspec.Struct, frozen=True):
    """Of one endpoint. They do not show when it is printed."""

    current: str | None
    previous: str | None = None
    previous_until: datetime | None = None

    def in_force(self, now: datetime) -> tuple[str, ...]:
        """The current one, then the one before the last rotation while that is still used."""
        rotating = self.previous_until is not None and now < self.previous_until
        return tuple(
            secret for secret in (self.current, self.previous if rotating else None) if secret is not None
        )

    def __repr__(self) -> str:
        return "Secrets(…)"


class Message(msgspec.Struct, frozen=True):
    """One event, the same for every receiver: `body` is `{"type", "timestamp", "data"}` as JSON text."""

    id: UUID
    type: str
    body: str
    created_at: datetime

    @property
    def webhook_id(self) -> str:
        """By which receivers know repeats; the same in every attempt."""
        return webhook_id(self.id)


class Claim(msgspec.Struct, frozen=True):
    """A delivery that this worker alone attempts now. `attempt` counts from 1 and fences its recording."""

    delivery_id: int
    endpoint_id: int
    attempt: int
    step: int
    url: str
    adapter: Adapter
    secrets: Secrets
    message: Message


class Attempt(msgspec.Struct, frozen=True):
    """One that was made. `status`: of the answer; null where there was none, and `error` says why."""

    number: int
    at: datetime
    status: int | None
    error: str | None
    duration_ms: int


class Delivery(msgspec.Struct, frozen=True):
    """One message on its way to one endpoint. `attempts` are the last ones, newest first."""

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
    """Return whether it is words of a-z, 0-9 and _ joined by dots, at most 128 characters."""
    return _EVENT_TYPE.fullmatch(text) is not None


def is_event_filter(text: str) -> bool:
    """Return whether it is an event type, an event type and `.*`, or `*`."""
    return text == "*" or is_event_type(text.removesuffix(".*"))


def wants(events: Iterable[str], event_type: str) -> bool:
    """Whether a filter admits the type: `rollout.*` admits `rollout.advanced`, but not `rollout` itself."""
    return any(
        chosen in {"*", event_type} or (chosen.endswith(".*") and event_type.startswith(chosen[:-1]))
        for chosen in events
    )


_EVENT_TYPE: Final = re.compile(r"(?=.{1,128}\Z)[a-z0-9_]+(\.[a-z0-9_]+)*")
