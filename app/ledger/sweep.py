"""The sweep: assignments whose horizon passed without a signal get their declared reward, or are censored."""

from datetime import datetime, timedelta
from typing import Final

from psycopg import AsyncCursor

from app.core.limits import CLOCK_JUMP_US
from app.ledger import limits
from app.ledger.scope import lock_layouts
from app.ledger.session import sql
from app.ledger.transaction import revise_affected

_AFFECT_OVERDUE: Final = sql(__package__, "affect_overdue")
_AFFECT_SILENT: Final = sql(__package__, "affect_silent")


async def sweep(cursor: AsyncCursor, *, now: datetime) -> tuple[int, list[int]]:
    """Resolve a bounded number of assignments whose horizon passed without a signal.

    The sweep goes no further than the watermark that all shards have reached, so that it overtakes no
    acknowledged signal, and never beyond the present. Return the number of assignments (if it is
    `SWEEP_ASSIGNMENTS_MAX`, there may be more) and the experiments whose totals changed.
    """
    await cursor.execute("SELECT FROM horizons FOR UPDATE SKIP LOCKED")
    if not cursor.rowcount:  # another worker sweeps
        return 0, []
    await cursor.execute("SELECT min(watermark) FROM stream_positions HAVING count(*) = count(watermark)")
    row = await cursor.fetchone()
    if row is None or row[0] is None:
        return 0, []
    silent_until = min(row[0], now)
    if row[0] - silent_until > timedelta(microseconds=CLOCK_JUMP_US):
        await _take_back(cursor, silent_until)
    await lock_layouts(cursor, None)
    await cursor.execute("SELECT id FROM experiments WHERE reads_silence")
    reading_silence = [experiment_id for (experiment_id,) in await cursor.fetchall()]
    bounds = {
        "watermark": silent_until,
        "rows_max": limits.SWEEP_ASSIGNMENTS_MAX,
        "reading_silence": reading_silence,
    }
    await cursor.execute(_AFFECT_SILENT, bounds)
    n_silent = cursor.rowcount
    await cursor.execute(_AFFECT_OVERDUE, bounds)
    n_overdue = cursor.rowcount
    changed = await revise_affected(cursor, silent_until_us=silent_until.timestamp() * 1e6)
    return max(n_silent, n_overdue), changed


async def _take_back(cursor: AsyncCursor, now: datetime) -> None:
    """Set watermarks and the sweep that are ahead of the present back to it, after a jump of the clock."""
    await cursor.execute("UPDATE stream_positions SET watermark = %s WHERE watermark > %s", (now, now))
    await cursor.execute("UPDATE horizons SET swept_until = least(swept_until, %s)", (now,))
