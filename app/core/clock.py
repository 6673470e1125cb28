"""Time as a value that callers pass in, and the one timeline of all processes.

No process trusts the wall clock of its machine. The shared time advances with a counter that no one
can set (the time since boot), is anchored to PostgreSQL's clock through one row (`shared_clock`),
and follows it in steps of at most `CLOCK_STEP_US`. If PostgreSQL's clock jumps, the keeper of the
row writes the jump down, and the shared time goes on as if nothing had happened. Why:
docs/decisions/0011-one-shared-clock.md.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Protocol

from app.core import limits

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_COUNTER: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps


class Clock(Protocol):
    """Source of the present time."""

    def now(self) -> datetime:
        """Return the present time in UTC."""
        ...

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        ...

    def now_us(self) -> int:
        """Return microseconds since the epoch."""
        ...


def counter_us() -> int:
    """Return the microseconds since the machine started, whatever happens to the wall clock."""
    return time.clock_gettime_ns(_COUNTER) // 1_000


def wall_us() -> int:
    """Return the microseconds since the epoch by the machine's wall clock, which may jump."""
    return time.time_ns() // 1_000


class Timeline:
    """Microseconds since the epoch as a function of `counter_us`. Only `move_to` sets it back."""

    __slots__ = ("_offset_us", "_reached_us")

    def __init__(self, at_us: int, counter_us: int) -> None:
        self._offset_us = at_us - counter_us
        self._reached_us = at_us

    def at(self, counter_us: int) -> int:
        """Return the time at a reading of the counter."""
        return counter_us + self._offset_us

    def present(self, counter_us: int) -> int:
        """Return the time at the newest reading. It stands still after `nudge` set it back."""
        us = counter_us + self._offset_us
        if us < self._reached_us:
            return self._reached_us
        self._reached_us = us
        return us

    def nudge(self, by_us: int) -> None:
        """Move by at most `CLOCK_STEP_US` towards another clock."""
        self._offset_us += max(-limits.CLOCK_STEP_US, min(limits.CLOCK_STEP_US, by_us))

    def move_to(self, at_us: int, counter_us: int) -> None:
        """Jump, even backwards. Only for a process that disagrees with all others."""
        self._offset_us = at_us - counter_us
        self._reached_us = at_us


TIMELINE: Final = Timeline(wall_us(), counter_us())
"""Timeline of this process. It follows the machine until `app.core.timekeeping` compares it."""

_present: Final = TIMELINE.present
_gettime_ns: Final = time.clock_gettime_ns


class SystemClock:
    """The time that all processes of one installation share; see the module."""

    def now(self) -> datetime:
        """Return the present time in UTC."""
        return _EPOCH + timedelta(microseconds=self.now_us())

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return _present(_gettime_ns(_COUNTER) // 1_000) // 1_000

    def now_us(self) -> int:
        """Return microseconds since the epoch."""
        return _present(_gettime_ns(_COUNTER) // 1_000)


class WallClock:
    """The machine's wall clock, for times that others compare with theirs, such as signatures."""

    def now(self) -> datetime:
        """Return the present time in UTC."""
        return datetime.now(UTC)

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def now_us(self) -> int:
        """Return microseconds since the epoch."""
        return wall_us()


class SharedClock(NamedTuple):
    """The row of `shared_clock`: the shared time is PostgreSQL's clock plus `ahead_us`.

    Its keeper raises `beat` about once a second. At the last beat, `reached_us` was the shared time
    and `counter_us` the counter of the keeper's machine. `boot` identifies a start of a machine.
    """

    ahead_us: int = 0
    reached_us: int = 0
    beat: int = 0
    keeper: str = ""
    boot: str = ""
    counter_us: int = 0


class Reading(NamedTuple):
    """PostgreSQL's clock and the row at one reading of our counter, accurate to `error_us`."""

    counter_us: int
    error_us: int
    database_us: int
    row: SharedClock

    @property
    def shared_us(self) -> int:
        """Shared time by the row."""
        return self.database_us + self.row.ahead_us


class Timekeeping:
    """Rules that move a timeline and the shared row, from one reading to the next. Pure.

    `name` is the unique name of this process; `boot` is as in `SharedClock`.
    """

    def __init__(self, timeline: Timeline, *, name: str, boot: str) -> None:
        self._timeline = timeline
        self._name = name
        self._boot = boot
        self._began_us: int | None = None
        self._beat = -1
        self._beat_us = 0
        self._beats_seen = 0
        self._deviating_since: int | None = None  # beat of the first such reading
        self.synchronised = False
        self.jumps = 0
        """Number of jumps of PostgreSQL's clock that this process recorded as the keeper."""
        self.steps = 0
        """Number of times that this process moved its timeline because all others disagreed."""

    def take(self, reading: Reading) -> SharedClock | None:
        """Follow a reading. Returns the row to store if its beat has not changed since, or None."""
        if self._began_us is None:
            self._began_us = reading.counter_us
        if reading.row.beat != self._beat:
            self._beats_seen += self._beat >= 0
            self._beat, self._beat_us = reading.row.beat, reading.counter_us
        if not self.synchronised:
            return self._begin(reading)
        off_us = reading.shared_us - self._timeline.at(reading.counter_us)
        keeps = self._keeps(reading)
        if abs(off_us) <= limits.CLOCK_JUMP_US + reading.error_us:
            self._deviating_since = None
            if abs(off_us) > reading.error_us:
                self._timeline.nudge(off_us)
            return self._row(reading, _nearer(reading.row.ahead_us)) if keeps else None
        if keeps:
            self.jumps += 1
            return self._row(reading, reading.row.ahead_us - off_us)
        if self._deviating_since is None:
            self._deviating_since = reading.row.beat
        elif reading.row.beat - self._deviating_since >= limits.CLOCK_BEATS_BELIEVED:
            self._timeline.move_to(reading.shared_us, reading.counter_us)
            self._deviating_since = None
            self.steps += 1
        return None

    def _keeps(self, reading: Reading) -> bool:
        """Return whether this process keeps the row: it does already, or the keeper is silent."""
        silent_us = reading.counter_us - self._beat_us
        return reading.row.keeper == self._name or silent_us >= limits.CLOCK_KEEPER_SILENT_US

    def _begin(self, reading: Reading) -> SharedClock | None:
        """Join the other processes, or find that there are none and begin the shared time."""
        row = reading.row
        if row.beat == 0:  # the first process of all
            return self._row(reading, 0, reading.database_us)
        if row.boot == self._boot != "":
            counted_us = row.reached_us + reading.counter_us - row.counter_us
            believed = abs(reading.shared_us - counted_us) <= limits.CLOCK_JUMP_US + reading.error_us
        else:
            counted_us = max(reading.database_us, row.reached_us)
            believed = 0 <= reading.shared_us - row.reached_us <= limits.CLOCK_FRESH_US
        if believed or self._beats_seen:
            self._timeline.move_to(reading.shared_us, reading.counter_us)
            self.synchronised = True
            return None
        assert self._began_us is not None
        if reading.counter_us - self._began_us < limits.CLOCK_WATCH_US:
            return None  # a living keeper beats within that time
        return self._row(reading, counted_us - reading.database_us, counted_us)

    def _row(self, reading: Reading, ahead_us: int, reached_us: int | None = None) -> SharedClock:
        if reached_us is None:
            reached_us = self._timeline.at(reading.counter_us)
        return SharedClock(
            ahead_us, reached_us, reading.row.beat + 1, self._name, self._boot, reading.counter_us
        )


def _nearer(ahead_us: int) -> int:
    """Move closer to PostgreSQL's clock by a step that every process can follow."""
    step_us = min(abs(ahead_us), limits.CLOCK_RETURN_US)
    return ahead_us - step_us if ahead_us > 0 else ahead_us + step_us
