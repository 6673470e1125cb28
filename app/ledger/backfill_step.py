"""The backfill: measures every unit again after the metrics of a running experiment have changed.

It goes once through the log in key order, a bounded number of assignments in each transaction.
Units that new events touch meanwhile are measured by the ledger itself. Both lock the unit, and
both move totals by the difference to what is stored of it. So an event counts once, in whatever
order they come. A transaction stores its position, so that another worker continues where a dead
one stopped.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import AsyncCursor

from app.experiments.publication_store import request_publications
from app.ledger import limits
from app.ledger.scope import lock_layouts, read_rules
from app.ledger.session import sql
from app.ledger.signals.step import recount_signals
from app.ledger.transaction import revise_affected
from app.ledger.units.cells import convert_cells
from app.ledger.units.series_step import convert_series
from app.ledger.units.strata_step import convert_strata

_UNFINISHED: Final = sql(__package__, "unfinished_backfills")
_AFFECT_RANGE: Final = sql(__package__, "affect_range")
_MOVE: Final = sql(__package__, "move_backfill")
_FINISH: Final = sql(__package__, "finish_backfill")
_POSITION: Final = """
    SELECT unit_hash, assignment_id
    FROM backfills
    WHERE experiment_id = %s AND finished_at IS NULL
    FOR UPDATE SKIP LOCKED
"""
_LOCK_EXPERIMENT: Final = "SELECT FROM experiments WHERE id = %s FOR NO KEY UPDATE"
_KEEP_ERROR: Final = "UPDATE backfills SET error = %s WHERE experiment_id = %s AND finished_at IS NULL"


class Progress(NamedTuple):
    """Result of one transaction of a backfill: `assignments` measured, and whether it is `at_end`.

    `changed`: the experiments whose totals changed.
    """

    assignments: int
    at_end: bool
    changed: Sequence[int] = ()


async def unfinished_backfills(cursor: AsyncCursor) -> list[int]:
    """Return a bounded number of experiments whose backfill has not finished, the oldest first."""
    await cursor.execute(_UNFINISHED, {"limit": limits.BACKFILLS_MAX})
    return [experiment_id for (experiment_id,) in await cursor.fetchall()]


async def measure_next(cursor: AsyncCursor, experiment_id: int) -> Progress | None:
    """Measure the next assignments of an experiment, and store the position behind them.

    Return None if the backfill has finished, or if another worker is at it.
    """
    await lock_layouts(cursor, [experiment_id])
    await cursor.execute(_POSITION, (experiment_id,))
    position = await cursor.fetchone()
    if position is None:
        return None
    bounds = {
        "experiment_id": experiment_id,
        "unit_hash": position[0],
        "id": position[1],
        "rows_max": limits.BACKFILL_ASSIGNMENTS_MAX,
    }
    await cursor.execute(_AFFECT_RANGE, bounds)
    keys: list[tuple[int, UUID]] = await cursor.fetchall()
    changed = await revise_affected(cursor)
    unit_hash, last = max(keys, default=position)
    moved = {"experiment_id": experiment_id, "unit_hash": unit_hash, "id": last, "done": len(keys)}
    await cursor.execute(_MOVE, moved)
    return Progress(len(keys), len(keys) < limits.BACKFILL_ASSIGNMENTS_MAX, changed)


async def recount_read_signals(cursor: AsyncCursor, experiment_id: int) -> None:
    """Count the signals of an experiment again by the ranges that its metrics declare now.

    Counting and correcting are one difference against one snapshot, so the ledger can go on.
    """
    rules = await read_rules(cursor, [experiment_id])
    if experiment_id in rules.rewards:
        await recount_signals(cursor, experiment_id, rules.rewards[experiment_id].signals)


async def finish(cursor: AsyncCursor, experiment_id: int, *, now: datetime) -> bool:
    """End a backfill that is at its end: bring the rest of the totals into the present layout.

    What is left are totals without units. Return whether it ended here.
    """
    await cursor.execute(_LOCK_EXPERIMENT, (experiment_id,))
    await lock_layouts(cursor, [experiment_id])
    await cursor.execute(_POSITION, (experiment_id,))
    position = await cursor.fetchone()
    if position is None:
        return False
    bounds = {"experiment_id": experiment_id, "unit_hash": position[0], "id": position[1], "rows_max": 1}
    await cursor.execute(_AFFECT_RANGE, bounds)
    if cursor.rowcount:
        return False
    measures = (await read_rules(cursor, [experiment_id])).measures.get(experiment_id)
    if measures is not None:
        await convert_cells(cursor, experiment_id, measures)
        await convert_series(cursor, experiment_id, measures)
        await convert_strata(cursor, experiment_id, measures)
    await cursor.execute(_FINISH, {"experiment_id": experiment_id, "now": now})
    await request_publications(cursor, [experiment_id])
    return True


async def keep_error(cursor: AsyncCursor, experiment_id: int, error: str) -> None:
    """Store why a backfill failed, for those who ask how it is doing."""
    await cursor.execute(_KEEP_ERROR, (error[: limits.BACKFILL_ERROR_LENGTH_MAX], experiment_id))
