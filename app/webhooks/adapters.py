"""Requests for each kind of receiver, built from a message. Pure.

Sources: Standard Webhooks 1.0.0; Slack, "Sending messages using incoming webhooks" and Block Kit;
PagerDuty, Events API v2; Alertmanager, API v2 (`POST /api/v2/alerts`); GitHub REST, "Create a
repository dispatch event".
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from itertools import accumulate
from typing import Any, Final

import msgspec

from app import __version__
from app.webhooks.model import Adapter, Message
from app.webhooks.signature import signature_header

ALERT_LASTS: Final = timedelta(days=1)
"""Time after which Alertmanager ends an alert that no event has resolved."""

_SUMMARY_LENGTH_MAX: Final = 1_024  # PagerDuty's
_SLACK_SECTION_LENGTH_MAX: Final = 2_800  # of 3,000, which the type of the event shares
_SLACK_FIELD_LENGTH_MAX: Final = 1_900  # of 2,000, which its name shares
_SLACK_LINK_LENGTH_MAX: Final = 1_024
_DEDUP_KEY_LENGTH_MAX: Final = 255
_EVENT_TYPE_LENGTH_MAX: Final = 100
_SLACK_ESCAPES: Final = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}


class Severity(StrEnum):
    """Severity of an event, in PagerDuty's terms."""

    CRITICAL = "critical"
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Facts(msgspec.Struct, frozen=True):
    """Fields that adapters read in the `data` of an event. All are optional; `data` may have more.

    Events with one `incident` (or, without it, with one experiment and variant) belong together.
    The last of them gives the present state: its severity, or that it is `resolved`. `link` is for
    people.
    """

    summary: str = ""
    severity: Severity = Severity.INFO
    experiment: str | None = None
    variant: str | None = None
    incident: str | None = None
    resolved: bool = False
    link: str | None = None


class Post(msgspec.Struct, frozen=True):
    """A POST request with headers and a body."""

    headers: dict[str, str]
    body: bytes


class _Event(msgspec.Struct, frozen=True):
    timestamp: datetime
    data: Facts


class _RawEvent(msgspec.Struct, frozen=True):
    timestamp: datetime
    data: dict[str, Any]


def post_for(adapter: Adapter, message: Message, *, secrets: Sequence[str], at: datetime) -> Post:
    """Return the request of an attempt made at `at`. `secrets` has the current secret first."""
    headers = {
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": f"wald/{__version__}",
    }
    if adapter is Adapter.STANDARD:
        return _standard(message, headers, secrets, at)
    event = msgspec.json.decode(message.body, type=_Event)
    body = _BODIES[adapter](message, event, secrets)
    if adapter in _BEARERS and secrets:
        headers["Authorization"] = f"Bearer {secrets[0]}"
    if adapter is Adapter.GITHUB:
        headers |= {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
    return Post(headers, msgspec.json.encode(body))


def _standard(message: Message, headers: dict[str, str], secrets: Sequence[str], at: datetime) -> Post:
    timestamp, body = int(at.timestamp()), message.body.encode()
    signed = {
        "webhook-id": message.webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature_header(
            secrets, webhook_id=message.webhook_id, timestamp=timestamp, body=body
        ),
    }
    return Post(headers | signed, body)


def _slack(message: Message, event: _Event, _: Sequence[str]) -> dict[str, Any]:
    facts = event.data
    summary = _escaped(_summary(message, facts), _SLACK_SECTION_LENGTH_MAX)
    blocks: list[dict[str, Any]] = [
        {"type": "section", "text": {"type": "mrkdwn", "text": f"*{message.type}*\n{summary}"}}
    ]
    named = {"experiment": facts.experiment, "variant": facts.variant, "severity": facts.severity}
    fields = [
        {"type": "mrkdwn", "text": f"*{name}*\n{_escaped(value, _SLACK_FIELD_LENGTH_MAX)}"}
        for name, value in named.items()
        if value is not None
    ]
    blocks.append({"type": "section", "fields": fields})
    if facts.link is not None:
        link = _escaped(facts.link.replace("|", "%7C"), _SLACK_LINK_LENGTH_MAX)
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": f"<{link}>"}]})
    return {"text": f"{message.type}: {summary}", "blocks": blocks}


def _escaped(text: str, length: int) -> str:
    """Escape a text for Slack and cut it to `length` characters, never inside an escape."""
    escaped = [_SLACK_ESCAPES.get(ord(sign), sign) for sign in text]
    ends = accumulate(map(len, escaped))
    return "".join(sign for sign, end in zip(escaped, ends, strict=True) if end <= length)


def _pagerduty(message: Message, event: _Event, secrets: Sequence[str]) -> dict[str, Any]:
    facts = event.data
    named = {"component": facts.experiment, "group": facts.variant}
    body: dict[str, Any] = {
        "routing_key": secrets[0],
        "event_action": "resolve" if facts.resolved else "trigger",
        "dedup_key": dedup_key(message, facts),
        "payload": {
            "summary": _summary(message, facts),
            "source": "wald",
            "severity": facts.severity,
            "timestamp": event.timestamp,
            **{name: value for name, value in named.items() if value is not None},
            "class": message.type,
            "custom_details": _raw(message).data,
        },
    }
    if facts.link is not None:
        body["links"] = [{"href": facts.link, "text": "Wald"}]
    return body


def _alertmanager(message: Message, event: _Event, _: Sequence[str]) -> list[dict[str, Any]]:
    """Return one alert with the event's severity, and the end of alerts with other severities.

    Labels identify an alert, so they hold only what all events of an incident share. Severity is a
    label because it routes alerts, so each severity is a separate alert. Ending an alert that never
    began changes nothing.
    """
    facts, at = event.data, event.timestamp
    labels = {"alertname": "Wald", "incident": dedup_key(message, facts)}
    annotations = {"summary": _summary(message, facts), "event": message.type}
    if facts.experiment is not None:
        labels["experiment"] = facts.experiment
    if facts.variant is not None:
        (annotations if facts.incident else labels)["variant"] = facts.variant
    link = {} if facts.link is None else {"generatorURL": facts.link}

    def alert(severity: Severity, ends_at: datetime) -> dict[str, Any]:
        about = {"labels": labels | {"severity": severity}, "annotations": annotations}
        return about | {"startsAt": at, "endsAt": ends_at} | link

    others = [alert(severity, at) for severity in Severity if severity is not facts.severity]
    return [alert(facts.severity, at if facts.resolved else at + ALERT_LASTS), *others]


def _github(message: Message, _: _Event, __: Sequence[str]) -> dict[str, Any]:
    raw = _raw(message)
    payload = {"id": message.webhook_id, "type": message.type, "timestamp": raw.timestamp, "data": raw.data}
    return {"event_type": message.type[:_EVENT_TYPE_LENGTH_MAX], "client_payload": payload}


_BODIES: Final[Mapping[Adapter, Callable[[Message, _Event, Sequence[str]], Any]]] = {
    Adapter.SLACK: _slack,
    Adapter.PAGERDUTY: _pagerduty,
    Adapter.ALERTMANAGER: _alertmanager,
    Adapter.GITHUB: _github,
}
_BEARERS: Final = frozenset({Adapter.ALERTMANAGER, Adapter.GITHUB})


def dedup_key(message: Message, facts: Facts) -> str:
    """Return the key by which receivers group events: the incident, or experiment and variant.

    Without either, the event is a group of its own. PagerDuty allows at most 255 characters.
    """
    named = facts.incident or ":".join(filter(None, (facts.experiment, facts.variant)))
    key = f"wald:{named or message.webhook_id}"
    return key if len(key) <= _DEDUP_KEY_LENGTH_MAX else f"wald:{sha256(key.encode()).hexdigest()}"


def _summary(message: Message, facts: Facts) -> str:
    """Return the summary, or else type, experiment and variant, within PagerDuty's limit."""
    where = " / ".join(filter(None, (facts.experiment, facts.variant)))
    return (facts.summary or f"{message.type} {where}".rstrip())[:_SUMMARY_LENGTH_MAX]


def _raw(message: Message) -> _RawEvent:
    return msgspec.json.decode(message.body, type=_RawEvent)
