"""Schedule of retries: when a failed delivery is repeated or given up. Pure."""

from datetime import UTC, datetime
from typing import Final

import msgspec

from app.webhooks import limits
from app.webhooks.model import DeliveryState

WAITS_S: Final = (0, 5, 15, 60, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds between each attempt and the one before it.

The schedule is that of Standard Webhooks, denser in the first minute, because news of a rollback is
urgent. The last attempt comes 75.6 hours after the first, or later with jitter.
"""

THROTTLED: Final = frozenset({429, 502, 503, 504})
"""Statuses whose `Retry-After` we follow."""

_GONE: Final = 410


class Answer(msgspec.Struct, frozen=True):
    """Result of an attempt: a status, or an error. `retry_after_s` is the receiver's wish."""

    status: int | None
    error: str | None = None
    retry_after_s: float | None = None

    @property
    def delivered(self) -> bool:
        """Whether the status is 2xx. A redirect is a failure."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no further messages."""
        return self.status == _GONE


class Settled(msgspec.Struct, frozen=True):
    """State of a delivery after an attempt. `wait_s` is the wait until the next, or None."""

    state: DeliveryState
    step: int
    wait_s: float | None = None


def settle(step: int, answer: Answer, *, jitter: float) -> Settled:
    """Return the state after the answer to the attempt at `step` (0: the first) of the schedule.

    A random `jitter` in [0, 1) lengthens the wait by up to the share `WEBHOOK_JITTER`, so that
    deliveries that failed together do not repeat together. A `Retry-After` counts up to
    `WEBHOOK_RETRY_AFTER_S_MAX`.

    Worked by hand: settle(1, Answer(503, retry_after_s=90), jitter=0.5) has a scheduled wait of
    15 s * 1.1 = 16.5 s. The receiver asked for 90 s, so the wait is 90 s and the step becomes 2.
    """
    if answer.delivered:
        return Settled(DeliveryState.DELIVERED, step)
    following = step + 1
    if answer.gone or following >= len(WAITS_S):
        return Settled(DeliveryState.GIVEN_UP, step)
    wait_s = WAITS_S[following] * (1 + limits.WEBHOOK_JITTER * jitter)
    if answer.status in THROTTLED and answer.retry_after_s is not None:
        wait_s = max(wait_s, min(answer.retry_after_s, limits.WEBHOOK_RETRY_AFTER_S_MAX))
    return Settled(DeliveryState.FAILED, following, wait_s)


def retry_after_s(value: str, now: datetime) -> float | None:
    """Return the seconds in a `Retry-After` header; None if it is neither seconds nor a date.

    The two obsolete forms of a date are not read. Source: RFC 9110, 10.2.3.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        at = datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return None
    return max(0.0, (at - now).total_seconds())
