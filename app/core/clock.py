"""Time as a value that is passed in, so that a failure replays."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the present comes from."""

    def now(self) -> datetime:
        """The present, aware, in UTC."""
        ...

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        ...

    def now_us(self) -> int:
        """Microseconds since the epoch."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The present, aware, in UTC."""
        return datetime.now(UTC)

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def now_us(self) -> int:
        """Microseconds since the epoch."""
        return time.time_ns() // 1_000
