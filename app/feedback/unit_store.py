"""Units and cells in the ledger's transaction: units are read from the log, cells move by differences."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray
from psycopg import AsyncCursor

from app.core import limits
from app.feedback import rows
from app.feedback.measures import (
    MEASURED,
    CellKey,
    CellTotals,
    Measures,
    MinuteKey,
    Unit,
    UnitKey,
    UnitRow,
    cells,
    cells_by_minute,
    measure,
)
from app.feedback.rewards import Assignments, Given
from app.feedback.series import SeriesKey, add, series
from app.feedback.series_store import move_series, recount_series
from app.feedback.session import arrays, copy, read_signals, sql

_LOG: Final = structlog.get_logger(__name__)

_INSERT_UNIT_TOTALS: Final = sql("insert_unit_totals")
_LOCK_UNIT_TOTALS: Final = sql("lock_unit_totals")
_READ_UNIT_ASSIGNMENTS: Final = sql("read_unit_assignments")
_READ_UNIT_CONTEXTS: Final = sql("read_unit_contexts")
_STORE_UNIT_TOTALS: Final = sql("store_unit_totals")
_ENSURE_METRIC_TOTALS: Final = sql("ensure_metric_totals")
_LOCK_METRIC_TOTALS: Final = sql("lock_metric_totals")
_STORE_METRIC_TOTALS: Final = sql("store_metric_totals")
_DELETE_GHOST_UNITS: Final = sql("delete_ghost_units")
_SWEPT_UNTIL: Final = "SELECT (extract(epoch FROM swept_until) * 1000000)::double precision FROM horizons"

_KEY: Final = np.dtype([("experiment_id", "i4"), ("epoch", "i4"), ("unit_hash", "i8"), ("id", "S16")])
_OF_UNITS: Final = (
    ("number", ">i4"),
    ("id", "S16"),
    ("assigned_us", ">i8"),
    ("deadline_us", ">i8"),
    ("variant", ">i2"),
    ("reward", ">i4"),
)
_CELL_KEY: Final = ("experiment_id", "epoch", "variant", "segment", "crossed")


async def move_units(cursor: AsyncCursor, touched: Assignments, measures: Mapping[int, Measures]) -> set[int]:
    """Bring the units of exposed, locked assignments up to date, their cells and series by the difference.

    Rewards are stored already. Returns the experiments whose cells changed.
    """
    changed: set[int] = set()
    keys = _keys(touched, measures)
    while len(keys):  # a second time for units that somebody else has stored in between
        moved, keys = await _move(cursor, keys, measures)
        changed |= moved
    return changed


async def _move(
    cursor: AsyncCursor, keys: NDArray[np.void], measures: Mapping[int, Measures]
) -> tuple[set[int], NDArray[np.void]]:
    """Bring units up to date. Returns the experiments whose cells changed, and the units still to do."""
    stored = await _lock(cursor, keys)
    bound = {"assignments_max": limits.UNIT_ASSIGNMENTS_MAX}
    assignments = await arrays(cursor, _READ_UNIT_ASSIGNMENTS, _OF_UNITS, bound)
    given = await _read_signals(cursor, assignments, keys)
    of_unit = [measures[experiment_id] for experiment_id in keys["experiment_id"].tolist()]
    contexts: dict[int, dict[str, Any] | None] = {}
    if any(one.reads_contexts for one in measures.values()):
        await cursor.execute(_READ_UNIT_CONTEXTS)
        contexts = dict(await cursor.fetchall())
    await cursor.execute(_SWEPT_UNTIL)
    row = await cursor.fetchone()
    assert row is not None
    found = measure(assignments.astype(MEASURED), given, contexts, of_unit, silent_until_us=row[0])

    before = {
        number: unit
        for number, row in stored.items()
        if (unit := _readable(keys[number], row, of_unit[number])) is not None
    }
    after = {number: unit for number, unit in enumerate(found) if before.get(number) != unit}
    overtaken = await _store(cursor, keys, after, known=stored.keys())
    named = [tuple(key) for key in keys.tolist()]
    added = [(named[number], unit) for number, unit in after.items() if number not in overtaken]
    removed = [(named[number], before[number]) for number in after if number in before]
    differences = _differences(cells_by_minute(added, measures), cells_by_minute(removed, measures))
    await _move_cells(cursor, cells(differences), measures)
    await move_series(cursor, series(differences, measures))
    return {key[0] for key in differences}, keys[sorted(overtaken)]


def _differences(
    added: Mapping[MinuteKey, CellTotals], removed: Mapping[MinuteKey, CellTotals]
) -> dict[MinuteKey, CellTotals]:
    """What is added, less what is removed."""
    found = dict(added)
    for key, totals in removed.items():
        found[key] = found[key] - totals if key in found else totals - totals - totals
    return found


def _keys(touched: Assignments, measures: Mapping[int, Measures]) -> NDArray[np.void]:
    """The units of these assignments, each once, in key order."""
    keys = np.empty(len(touched), _KEY)
    for name in _KEY.names or ():
        keys[name] = touched[name]
    by_unit = [one for one, measured in measures.items() if not measured.each_assignment]
    keys["id"][np.isin(touched["experiment_id"], by_unit)] = b""
    return np.unique(keys)


async def _read_signals(cursor: AsyncCursor, assignments: NDArray[np.void], keys: NDArray[np.void]) -> Given:
    """The signals of assignments of units, by their index."""
    await cursor.execute("DELETE FROM unread")  # what rewards were resolved from
    fields = [("experiment_id", "i4"), ("unit_hash", "i8"), ("id", "S16"), ("assigned_us", "i8")]
    asked = np.empty(len(assignments), [*fields, ("deadline_us", "i8"), ("exposed", "?")])
    for name in ("experiment_id", "unit_hash"):
        asked[name] = keys[name][assignments["number"]]
    for name in ("id", "assigned_us", "deadline_us"):
        asked[name] = assignments[name]
    asked["exposed"] = True
    return await read_signals(cursor, np.arange(len(asked)), asked)


async def _lock(cursor: AsyncCursor, keys: NDArray[np.void]) -> dict[int, UnitRow]:
    """Lock the units that are stored; what they came to, by their number among the keys."""
    await cursor.execute("DELETE FROM touched_units")
    await copy(
        cursor,
        "touched_units",
        rows.rows(len(keys), number=(">i4", np.arange(len(keys))), **_key_columns(keys)),
    )
    await cursor.execute(_LOCK_UNIT_TOTALS)
    return {number: tuple(row) for number, *row in await cursor.fetchall()}


def _readable(key: object, row: UnitRow, measures: Measures) -> Unit | None:
    """A stored unit; None if it cannot be read, which only a hand that is not ours can bring about.

    It must not hold up the ledger. Stored anew, its cell counts it twice; `wald rebuild` mends that.
    """
    try:
        return Unit.from_row(row, measures)
    except (ValueError, msgspec.MsgspecError) as error:
        _LOG.error("unit_totals_unusable", key=str(key), error=str(error), then="run wald rebuild")
        return None


def _key_columns(keys: NDArray[np.void]) -> dict[str, tuple[str, Any]]:
    return {
        "experiment_id": (">i4", keys["experiment_id"]),
        "epoch": (">i4", keys["epoch"]),
        "unit_hash": (">i8", keys["unit_hash"]),
        "assignment_id": ("S16", keys["id"]),
    }


async def _store(
    cursor: AsyncCursor, keys: NDArray[np.void], units: Mapping[int, Unit], known: Collection[int]
) -> set[int]:
    """Store units, of which those `known` are locked. Returns others that somebody has stored meanwhile."""
    if not units:
        return set()
    numbers, chosen = list(units), list(units.values())
    new = [number for number in numbers if number not in known]
    await cursor.execute("DELETE FROM staged_units")
    await copy(
        cursor,
        "staged_units",
        rows.rows(
            len(units),
            [rows.text(unit.segment) for unit in chosen],
            [rows.raw(unit.to_bytes()) for unit in chosen],
            **_key_columns(keys[numbers]),
            variant=(">i2", [unit.variant for unit in chosen]),
            crossed=("u1", [unit.crossed for unit in chosen]),
            new=("u1", [number not in known for number in numbers]),
            minute=(">i4", [unit.minute for unit in chosen]),
        ),
    )
    if len(new) < len(units):
        await cursor.execute(_STORE_UNIT_TOTALS)
    if not new:
        return set()
    await cursor.execute(_INSERT_UNIT_TOTALS)
    if cursor.rowcount == len(new):
        return set()
    made = {(*row[:3], row[3].bytes.rstrip(b"\0")) for row in await cursor.fetchall()}
    named = keys.tolist()
    return {number for number in new if tuple(named[number]) not in made}


async def _move_cells(
    cursor: AsyncCursor, differences: Mapping[CellKey, CellTotals], measures: Mapping[int, Measures]
) -> None:
    """Add the differences to the cells.

    Totals that cannot be read, which only a hand that is not ours can bring about, stay as they are: they
    must not hold up the ledger, and `wald rebuild` mends them.
    """
    keys = sorted(differences)
    if not keys:
        return
    await cursor.execute(_ENSURE_METRIC_TOTALS, _cell_keys(keys))
    await cursor.execute(_LOCK_METRIC_TOTALS, _cell_keys(keys))
    bodies: dict[CellKey, bytes] = {}
    for *names, body in await cursor.fetchall():
        key: CellKey = tuple(names)
        try:
            stood = CellTotals.from_bytes(body) if body else CellTotals.none(measures[key[0]])
            bodies[key] = (stood + differences[key]).to_bytes()
        except (ValueError, msgspec.MsgspecError) as error:
            _LOG.error("metric_totals_unusable", key=key, error=str(error), then="run wald rebuild")
    await store_cells(cursor, bodies)


async def store_cells(cursor: AsyncCursor, bodies: Mapping[CellKey, bytes]) -> None:
    """Set the totals of cells that have a row."""
    await cursor.execute(_STORE_METRIC_TOTALS, _cell_keys(bodies) | {"body": list(bodies.values())})


async def recount(
    cursor: AsyncCursor, units: AsyncCursor, experiment_id: int, measures: Measures, *, rows_max: int
) -> tuple[list[CellKey], list[tuple[int, int]]]:
    """Set the cells and series of an experiment to what its units come to, those that the log knows.

    Returns the keys of the cells that differed, and (epoch, variant) of the series. `units` is a cursor of
    the server's, of which a bounded number of rows is read at a time. The caller's lock keeps others from
    adding to cells and series: what they committed before is seen here.
    """
    await cursor.execute(_DELETE_GHOST_UNITS, {"experiment_id": experiment_id})
    fresh: dict[CellKey, CellTotals] = {}
    minutes: dict[SeriesKey, CellTotals] = {}
    none = CellTotals.none(measures)
    await units.execute(
        "SELECT epoch, unit_hash, variant, segment, crossed, minute, body FROM unit_totals"
        " WHERE experiment_id = %s",
        (experiment_id,),
    )
    while found := await units.fetchmany(rows_max):
        some: list[tuple[UnitKey, Unit]] = []
        for epoch, unit_hash, *row in found:
            unit = _readable((experiment_id, epoch, unit_hash), tuple(row), measures)
            if unit is not None:
                some.append(((experiment_id, epoch, unit_hash, b""), unit))
        by_minute = cells_by_minute(some, {experiment_id: measures})
        for key, totals in cells(by_minute).items():
            fresh[key] = fresh.get(key, none) + totals
        for place, totals in series(by_minute, {experiment_id: measures}).items():
            add(minutes, place, totals)
    differed = await _recount_cells(cursor, experiment_id, fresh, none)
    return differed, await recount_series(cursor, experiment_id, minutes)


async def _recount_cells(
    cursor: AsyncCursor, experiment_id: int, fresh: Mapping[CellKey, CellTotals], none: CellTotals
) -> list[CellKey]:
    await cursor.execute(
        "SELECT epoch, variant, segment, crossed, body FROM metric_totals WHERE experiment_id = %s",
        (experiment_id,),
    )
    stored: dict[CellKey, bytes] = {(experiment_id, *row[:4]): row[4] for row in await cursor.fetchall()}
    right = {key: fresh.get(key, none).to_bytes() for key in {*fresh, *stored}}
    differed = [key for key in sorted(right) if right[key] != (stored.get(key) or none.to_bytes())]
    if differed:
        await cursor.execute(_ENSURE_METRIC_TOTALS, _cell_keys(differed))
        await store_cells(cursor, {key: right[key] for key in differed})
    return differed


def _cell_keys(keys: Collection[CellKey]) -> dict[str, list[Any]]:
    columns: defaultdict[str, list[Any]] = defaultdict(list)
    for key in keys:
        for name, value in zip(_CELL_KEY, key, strict=True):
            columns[name].append(value)
    return {name: columns[name] for name in _CELL_KEY}
