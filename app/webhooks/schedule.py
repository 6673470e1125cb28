"""When a failed delivery is tried again, and when it is given up. Pure."""

from datetime import UTC, datetime
from typing import Final

import msgspec

from app.webhooks import limits
from app.webhooks.model import DeliveryState

WAITS_S: Final = (0, 5, 15, 60, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds before each attempt, from the one before: those of Standard Webhooks, denser in the first minute,
since a rollback cannot wait to be told. The last attempt is 75.6 hours after the first, and more
with
jitter."""

THROTTLED: Final = frozenset({429, 502, 503, 504})
"""Statuses whose `Retry-After` is honoured."""

_GONE: Final = 410


class Answer(msgspec.Struct, frozen=True):
    """What came of an attempt: a status, or none and why. `retry_after_s` as the receiver asked."""

    status: int | None
    error: str | None = None
    retry_after_s: float | None = None

    @property
    def delivered(self) -> bool:
        """2xx and nothing else: a redirect is a failure."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """The receiver wants no more of anything."""
        return self.status == _GONE


class Settled(msgspec.Struct, frozen=True):
    """Where a delivery is after an attempt. `wait_s`: until the next one; None when there will be none."""

    state: DeliveryState
    step: int
    wait_s: float | None = None


def settle(step: int, answer: Answer, *, jitter: float) -> Settled:
    """Return what follows from the answer to the attempt at `step` (0: the first) of the schedule.

    `jitter` in [0, 1), by chance, lengthens the wait by up to the share `WEBHOOK_JITTER`, so that
    what failed together is not repeated together. A `Retry-After` of up to
    `WEBHOOK_RETRY_AFTER_S_MAX` is waited for.

    By hand: settle(1, Answer(503, retry_after_s=90), jitter=0.5) waits for 15 s * 1.1 = 16.5 s by
    the schedule, and for 90 s because the receiver asked for it; it is then at step 2.
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
    """Seconds in a `Retry-After` header (RFC 9110, 10.2.3: seconds or a date); None when it is neither.

    Of the forms of a date the two obsolete ones are not read.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        at = datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return None
    return max(0.0, (at - now).total_seconds())
