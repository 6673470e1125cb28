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
    Unit,
    UnitKey,
    UnitRow,
    cells,
    measure,
)
from app.feedback.rewards import Assignments, Given
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
    """Bring the units of exposed, locked assignments up to date, and their cells by the difference.

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
    moved = await _move_cells(cursor, cells(added, measures), cells(removed, measures), measures)
    return moved, keys[sorted(overtaken)]


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
    cursor: AsyncCursor,
    added: Mapping[CellKey, CellTotals],
    removed: Mapping[CellKey, CellTotals],
    measures: Mapping[int, Measures],
) -> set[int]:
    """Add the difference to the cells. Returns the experiments of those that changed.

    Totals that cannot be read, which only a hand that is not ours can bring about, stay as they are: they
    must not hold up the ledger, and `wald rebuild` mends them.
    """
    keys = sorted({*added, *removed})
    if not keys:
        return set()
    await cursor.execute(_ENSURE_METRIC_TOTALS, _cell_keys(keys))
    await cursor.execute(_LOCK_METRIC_TOTALS, _cell_keys(keys))
    bodies: dict[CellKey, bytes] = {}
    for *names, body in await cursor.fetchall():
        key: CellKey = tuple(names)
        none = CellTotals.none(measures[key[0]])
        try:
            stood = CellTotals.from_bytes(body) if body else none
            bodies[key] = (stood + added.get(key, none) - removed.get(key, none)).to_bytes()
        except (ValueError, msgspec.MsgspecError) as error:
            _LOG.error("metric_totals_unusable", key=key, error=str(error), then="run wald rebuild")
    await store_cells(cursor, bodies)
    return {key[0] for key in keys}


async def store_cells(cursor: AsyncCursor, bodies: Mapping[CellKey, bytes]) -> None:
    """Set the totals of cells that have a row."""
    await cursor.execute(_STORE_METRIC_TOTALS, _cell_keys(bodies) | {"body": list(bodies.values())})


async def recount_cells(
    cursor: AsyncCursor, units: AsyncCursor, experiment_id: int, measures: Measures, *, rows_max: int
) -> list[CellKey]:
    """Set the cells of an experiment to what its units come to. Returns the keys of those that differed.

    `units` is a cursor of the server's, of which a bounded number of rows is read at a time. The caller's
    lock keeps others from adding to the cells: what they committed before is seen here.
    """
    fresh: dict[CellKey, CellTotals] = {}
    none = CellTotals.none(measures)
    await units.execute(
        "SELECT epoch, unit_hash, variant, segment, crossed, body FROM unit_totals WHERE experiment_id = %s",
        (experiment_id,),
    )
    while found := await units.fetchmany(rows_max):
        some: list[tuple[UnitKey, Unit]] = []
        for epoch, unit_hash, *row in found:
            unit = _readable((experiment_id, epoch, unit_hash), tuple(row), measures)
            if unit is not None:
                some.append(((experiment_id, epoch, unit_hash, b""), unit))
        for key, totals in cells(some, {experiment_id: measures}).items():
            fresh[key] = fresh.get(key, none) + totals
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
