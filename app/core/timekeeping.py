"""Timekeeping of a process: it follows the shared time, and measures the skew of other clocks."""

import asyncio
import math
from contextlib import suppress
from pathlib import Path
from typing import Final

import psycopg
import structlog
from psycopg import AsyncConnection
from sqlalchemy import BigInteger, Column, SmallInteger, Table, Text, text

from app.core import limits
from app.core.clock import TIMELINE, Reading, SharedClock, Timekeeping, counter_us, wall_us
from app.core.health import Check
from app.core.loops import stop_if_cancelled
from app.core.outages import POSTGRES_ERRORS
from app.core.postgres import METADATA, connect
from app.core.telemetry import CLOCK_JUMPS, CLOCK_SKEW, CLOCK_STEPS, DEGRADED

_LOG: Final = structlog.get_logger(__name__)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

shared_clock = Table(
    "shared_clock",
    METADATA,
    Column("id", SmallInteger, primary_key=True, autoincrement=False, comment="always 1"),
    Column(
        "ahead_us",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="of the clock of PostgreSQL",
    ),
    Column(
        "reached_us",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="shared time of the last beat",
    ),
    Column("beat", BigInteger, nullable=False, server_default=text("0")),
    Column("keeper", Text, nullable=False, server_default=text("''"), comment="process that beats"),
    Column("boot", Text, nullable=False, server_default=text("''"), comment="which start of its machine"),
    Column(
        "counter_us",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="since that start, at the last beat",
    ),
)

_READ: Final = (
    "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,"
    " ahead_us, reached_us, beat, keeper, boot, counter_us"
    " FROM (SELECT) AS always LEFT JOIN shared_clock ON id = 1"
)
_CREATE: Final = "INSERT INTO shared_clock (id) VALUES (1) ON CONFLICT DO NOTHING"
_STORE: Final = (
    "UPDATE shared_clock SET ahead_us = %s, reached_us = %s, beat = %s, keeper = %s, boot = %s,"
    " counter_us = %s WHERE id = 1 AND beat = %s"
)


class TimeKeeper:
    """Reader of PostgreSQL's clock, once a second, on its own connection.

    `name` is the unique name of this process.
    """

    def __init__(self, database_url: str, name: str) -> None:
        self._database_url = database_url
        self._timekeeping = Timekeeping(TIMELINE, name=name, boot=_boot())
        self._last: Reading | None = None

    async def start(self) -> None:
        """Join the shared time before anything else starts, if PostgreSQL answers."""
        try:
            async with asyncio.timeout(limits.CLOCK_START_S), await connect(self._database_url) as connection:
                while not self._timekeeping.synchronised:
                    changed = await self._follow(connection)
                    if not (changed or self._timekeeping.synchronised):
                        await asyncio.sleep(limits.CLOCK_WATCH_PAUSE_S)
        except POSTGRES_ERRORS as error:
            _LOG.warning("clock_not_compared", error=str(error).partition("\n")[0] or type(error).__name__)

    async def run(self) -> None:
        """Follow the shared time until PostgreSQL fails. Then the machine's counter continues it."""
        try:
            async with await connect(self._database_url) as connection:
                while True:
                    stop_if_cancelled()
                    await self._follow(connection)
                    self._measure()
                    await asyncio.sleep(limits.CLOCK_SYNC_S)
        except (psycopg.OperationalError, OSError) as error:
            _LOG.debug("clock_not_compared", error=str(error))
            self._measure()

    def check(self) -> Check:
        """Return the check that both clocks agree with the shared time. It is never critical."""
        problems = [
            f"{whose} is {abs(skew_s):,.1f} s {'ahead of' if skew_s > 0 else 'behind'} the shared time"
            for whose, skew_s in self.skews_s().items()
            if abs(skew_s) > limits.CLOCK_SKEW_SHOWN_S
        ]
        if not self._timekeeping.synchronised:
            problems.append("not compared with PostgreSQL since the start: this machine's clock counts")
        elif self.age_s > limits.CLOCK_AGE_SHOWN_S:
            problems.append(f"not compared with PostgreSQL for {self.age_s:,.0f} s")
        elif problems:
            problems.append("synchronise the clocks of the machines (NTP)")
        return Check("clock", ok=not problems, detail="; ".join(problems))

    @property
    def age_s(self) -> float:
        """Seconds since the last comparison with PostgreSQL's clock."""
        return math.inf if self._last is None else (counter_us() - self._last.counter_us) / 1e6

    def skews_s(self) -> dict[str, float]:
        """Return the seconds by which each clock is ahead of the shared time."""
        counter = counter_us()
        skews_us = {"the clock of this machine": wall_us() - TIMELINE.at(counter)}
        if self._last is not None:
            at_us = TIMELINE.at(self._last.counter_us)
            skews_us["the clock of PostgreSQL"] = self._last.database_us - at_us
        return {whose: skew_us / 1e6 for whose, skew_us in skews_us.items()}

    async def _follow(self, connection: AsyncConnection) -> bool:
        """Take one reading; return whether it changed the row."""
        reading = await _read(connection)
        if reading is None:
            await connection.execute(_CREATE)
            return True
        if reading.error_us > limits.CLOCK_ERROR_US_MAX and self._timekeeping.synchronised:
            return False  # PostgreSQL was too slow for an accurate reading
        self._last = reading
        before = self._timekeeping.jumps, self._timekeeping.steps
        row = self._timekeeping.take(reading)
        self._report(before)
        if row is None:
            return False
        cursor = await connection.execute(_STORE, (*row, reading.row.beat))
        return cursor.rowcount == 1

    def _report(self, before: tuple[int, int]) -> None:
        jumped, stepped = self._timekeeping.jumps - before[0], self._timekeeping.steps - before[1]
        if jumped:
            CLOCK_JUMPS.inc(jumped)
        if stepped:
            CLOCK_STEPS.inc(stepped)
        if jumped or stepped:
            skews_s = {whose: round(skew_s, 3) for whose, skew_s in self.skews_s().items()}
            _LOG.warning("clock_jumped" if jumped else "clock_stepped", skews_s=skews_s)

    def _measure(self) -> None:
        for whose, skew_s in self.skews_s().items():
            CLOCK_SKEW.labels("machine" if "machine" in whose else "postgres").set(skew_s)
        DEGRADED.labels("clock").set(not self.check().ok)


async def _read(connection: AsyncConnection) -> Reading | None:
    before_us = counter_us()
    row = await (await connection.execute(_READ)).fetchone()
    after_us = counter_us()
    if row is None or row[1] is None:
        return None
    error_us = (after_us - before_us) // 2
    return Reading(before_us + error_us, error_us, row[0], SharedClock(*row[1:]))


def _boot() -> str:
    """Return the id of this start of this machine; empty if the system has none."""
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""
