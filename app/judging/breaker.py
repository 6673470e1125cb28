"""Circuit breaker of a judge version: closed, open, half open. Pure.

    closed     calls run; it opens if too many of the last calls failed
    open       calls wait until `reopen_at`
    half_open  one call at a time runs: a success closes the breaker, a failure opens it again

Each opening in a row doubles the wait. A call fails for the breaker if the endpoint did: a
time-out, a refused connection, a limit of the rate, a wrong credential. An answer that cannot be
used is a success here, because it says nothing about the next call.
"""

from collections import deque
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from app.judging import limits


class BreakerState(StrEnum):
    """State of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """A breaker as stored.

    `openings` counts the openings in a row, `reason` is the last failure.
    """

    state: BreakerState = BreakerState.CLOSED
    changed_at: datetime | None = None
    reopen_at: datetime | None = None
    openings: int = 0
    reason: str = ""

    def at(self, now: datetime) -> "Breaker":
        """Return the breaker at a time: an open one becomes half open after its wait."""
        if self.state is BreakerState.OPEN and self.reopen_at is not None and now >= self.reopen_at:
            return msgspec.structs.replace(self, state=BreakerState.HALF_OPEN, changed_at=self.reopen_at)
        return self

    def calls_max(self, concurrency: int) -> int:
        """Return the number of calls that may run at the same time."""
        match self.state:
            case BreakerState.CLOSED:
                return concurrency
            case BreakerState.HALF_OPEN:
                return 1
            case BreakerState.OPEN:
                return 0

    def opened(self, now: datetime, reason: str, *, retry_after_s: float | None = None) -> "Breaker":
        """Return the breaker after it opened, for twice as long as the last time in a row."""
        wait_s = min(limits.BREAKER_FIRST_S * 2**self.openings, limits.BREAKER_S_MAX)
        wait_s = min(max(wait_s, retry_after_s or 0.0), limits.BREAKER_S_MAX)
        return Breaker(
            state=BreakerState.OPEN,
            changed_at=now,
            reopen_at=now + timedelta(seconds=wait_s),
            openings=self.openings + 1,
            reason=reason,
        )

    def closed(self, now: datetime) -> "Breaker":
        """Return the breaker after a call succeeded."""
        return Breaker(changed_at=now)


class RecentCalls:
    """Results of the last `BREAKER_CALLS` calls of a version by one worker."""

    def __init__(self) -> None:
        self._failed: deque[bool] = deque(maxlen=limits.BREAKER_CALLS)

    def add(self, *, failed: bool) -> bool:
        """Add a result; return whether so many calls failed that the breaker must open."""
        self._failed.append(failed)
        failures = sum(self._failed)
        return failures >= limits.BREAKER_FAILURES and failures >= limits.BREAKER_SHARE * len(self._failed)

    def clear(self) -> None:
        """Forget all results."""
        self._failed.clear()
