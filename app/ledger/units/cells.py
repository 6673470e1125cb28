"""The step that moves cells by the differences of their units."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, Final

from psycopg import AsyncCursor

from app.ledger.session import report_unusable, sql
from app.ledger.units.measures import CellKey, CellTotals, Measures, UnreadableTotals, in_layout, moved

_LOCK_METRIC_TOTALS: Final = sql(__package__, "lock_metric_totals")
_STORE_METRIC_TOTALS: Final = sql(__package__, "store_metric_totals")
_READ_METRIC_TOTALS: Final = (
    "SELECT epoch, variant, segment, crossed, body FROM metric_totals WHERE experiment_id = %s"
)
_CELL_KEY: Final = ("experiment_id", "epoch", "variant", "segment", "crossed")


async def move_cells(
    cursor: AsyncCursor, differences: Mapping[CellKey, CellTotals], measures: Mapping[int, Measures]
) -> None:
    """Add differences to the cells. Totals that cannot be decoded stay as they are."""
    if not differences:
        return
    await cursor.execute(_LOCK_METRIC_TOTALS, _cell_keys(sorted(differences)))
    bodies: dict[CellKey, bytes] = {}
    for *names, body in await cursor.fetchall():
        key: CellKey = tuple(names)
        try:
            measured = measures[key[0]]
            bodies[key] = moved(body, differences[key], measured, measured.beside).to_bytes()
        except (ValueError, UnreadableTotals) as error:
            report_unusable("metric_totals", key, error)
    await _store_cells(cursor, bodies)


async def recount_cells(
    cursor: AsyncCursor, experiment_id: int, fresh: Mapping[CellKey, CellTotals], measures: Measures
) -> list[CellKey]:
    """Set the cells of an experiment to `fresh`, and empty all others, under a lock on the table.

    Return the keys of the cells that differed.
    """
    none = CellTotals.none(measures)
    await cursor.execute(_READ_METRIC_TOTALS, (experiment_id,))
    stored: dict[CellKey, bytes] = {
        (experiment_id, *row[:4]): in_layout(row[4], measures, measures.beside)
        for row in await cursor.fetchall()
    }
    right = {key: fresh.get(key, none).to_bytes() for key in {*fresh, *stored}}
    differed = [key for key in sorted(right) if right[key] != (stored.get(key) or none.to_bytes())]
    if differed:
        await cursor.execute(_LOCK_METRIC_TOTALS, _cell_keys(differed))
        await _store_cells(cursor, {key: right[key] for key in differed})
    return differed


async def convert_cells(cursor: AsyncCursor, experiment_id: int, measures: Measures) -> None:
    """Bring the cells of an experiment that are in an earlier layout into the present one."""
    await cursor.execute(_READ_METRIC_TOTALS, (experiment_id,))
    outdated: list[CellKey] = [
        (experiment_id, *row[:4])
        for row in await cursor.fetchall()
        if in_layout(row[4], measures, measures.beside) != row[4]
    ]
    if outdated:
        await cursor.execute(_LOCK_METRIC_TOTALS, _cell_keys(sorted(outdated)))
        bodies: dict[CellKey, bytes] = {
            tuple(names): in_layout(body, measures, measures.beside)
            for *names, body in await cursor.fetchall()
        }
        await _store_cells(cursor, bodies)


async def _store_cells(cursor: AsyncCursor, bodies: Mapping[CellKey, bytes]) -> None:
    """Set the totals of cells that have a row."""
    await cursor.execute(_STORE_METRIC_TOTALS, _cell_keys(bodies) | {"body": list(bodies.values())})


def _cell_keys(keys: Collection[CellKey]) -> dict[str, list[Any]]:
    columns: defaultdict[str, list[Any]] = defaultdict(list)
    for key in keys:
        for name, value in zip(_CELL_KEY, key, strict=True):
            columns[name].append(value)
    return {name: columns[name] for name in _CELL_KEY}
