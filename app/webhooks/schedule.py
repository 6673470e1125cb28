"""Schedule of retries: when a failed delivery is repeated or given up. Pure."""

from typing import Final

import msgspec

from app.jobs.retry import following
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

    `jitter` in [0, 1) spreads repeats, see `app.jobs.retry`. A `Retry-After` of a throttling
    receiver counts.

    Worked by hand: settle(1, Answer(503, retry_after_s=90), jitter=0.5) has a scheduled wait of
    15 s * 1.1 = 16.5 s. The receiver asked for 90 s, so the wait is 90 s and the step becomes 2.
    """
    if answer.delivered:
        return Settled(DeliveryState.DELIVERED, step)
    wish_s = answer.retry_after_s if answer.status in THROTTLED else None
    retry = following(step, WAITS_S, jitter=jitter, retry_after_s=wish_s)
    if answer.gone or retry is None:
        return Settled(DeliveryState.GIVEN_UP, step)
    return Settled(DeliveryState.FAILED, retry.step, retry.wait_s)
