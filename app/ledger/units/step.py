"""The step that locks the touched units, measures them from the log, and stores those that changed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncCursor
from psycopg.errors import UniqueViolation

from app.ledger import limits, rows
from app.ledger.log.step import Logged, read_signals
from app.ledger.rewards.model import ASSIGNMENT, Assignments, Given, Integers
from app.ledger.rows import Rows
from app.ledger.session import arrays, copy, pieces, report_unusable, sql
from app.ledger.units.cells import move_cells, recount_cells
from app.ledger.units.measures import CellKey, CellTotals, Measures, MinuteKey, cells
from app.ledger.units.model import (
    HEAD,
    Heads,
    Units,
    measure,
    starts_of,
    totals_by_minute,
    totals_by_stratum,
)
from app.ledger.units.series import SeriesKey, add, series
from app.ledger.units.series_step import move_series, recount_series
from app.ledger.units.strata import Shares, StratumKey
from app.ledger.units.strata_step import move_strata, recount_strata

_INSERT_UNIT_TOTALS: Final = sql(__package__, "insert_unit_totals")
_LOCK_UNIT_TOTALS: Final = sql(__package__, "lock_unit_totals")
_READ_UNIT_ASSIGNMENTS: Final = sql(__package__, "read_unit_assignments")
_READ_UNIT_CONTEXTS: Final = sql(__package__, "read_unit_contexts")
_STORE_UNIT_TOTALS: Final = sql(__package__, "store_unit_totals")
_DELETE_GHOST_UNITS: Final = sql(__package__, "delete_ghost_units")
_READ_UNITS: Final = (
    "SELECT unit_hash, epoch, variant, crossed, coalesce(minute, -1), coalesce(stratum, -1),"
    " coalesce(weight, 0), layout, segment, body"
    " FROM unit_totals WHERE experiment_id = %s"
)
_SWEPT_UNTIL: Final = "SELECT (extract(epoch FROM swept_until) * 1000000)::double precision FROM horizons"

_NEW_UNITS: Final = (
    "unit_totals (experiment_id, epoch, unit_hash, assignment_id, variant, crossed, minute, stratum, weight,"
    " layout, segment, body)"
)
_NO_SUMS: Final = "the sums do not fit the metrics"
_KEY: Final = np.dtype([("experiment_id", "i4"), ("epoch", "i4"), ("unit_hash", "i8"), ("id", "S16")])

# Columns of results that are one row of arrays.
_STORED: Final = [
    ("number", ">i4"),
    ("place", "V6"),
    ("epoch", ">i4"),
    ("variant", ">i2"),
    ("crossed", "?"),
    ("minute", ">i4"),
    ("stratum", ">i2"),
    ("weight", ">i8"),
    ("layout", ">i2"),
    ("segment_length", ">i4"),
    ("body_length", ">i4"),
]
_OF_UNITS: Final = (
    ("number", ">i4"),
    ("id", "S16"),
    ("assigned_us", ">i8"),
    ("deadline_us", ">i8"),
    ("variant", ">i2"),
    ("propensity", ">f8"),
    ("reward", ">i4"),
)
_MADE: Final = (("experiment_id", ">i4"), ("epoch", ">i4"), ("unit_hash", ">i8"), ("id", "S16"))

Flags = NDArray[np.bool_]
Contexts = Mapping[int, Mapping[str, Any] | None]


class Part(NamedTuple):
    """The touched units of one experiment.

    `numbers` are their positions among all touched units. `known` is the mask of units with a
    readable row, and `stored` holds the values of these rows at the same places.
    """

    experiment_id: int
    measures: Measures
    shares: Shares | None
    numbers: slice
    stored: Units
    known: Flags
    outdated: Flags
    """Units that were stored in an earlier layout. They are measured from the whole log."""

    def moved(self, units: Units) -> Flags:
        """Return the mask of the units that have to be stored."""
        moved = ~self.known | self.outdated
        moved[self.known] |= self.stored.of(self.known).differ(units.of(self.known))
        return moved


class Touched(NamedTuple):
    """Units of some assignments, each once and in key order. Stored units are locked.

    `number` is the number of each assignment's unit. `stored`: the unit has a row, at this `place`;
    `old`: the log may hold other assignments of the unit.
    """

    keys: NDArray[np.void]
    number: Integers
    stored: Flags
    place: NDArray[np.void]
    old: Flags
    parts: Sequence[Part]

    @property
    def has_signals(self) -> Flags:
        """Mask of the units about which the log may hold signals that a metric reads."""
        has_signals = self.old.copy()
        for part in self.parts:
            current = part.known & ~part.outdated
            has_signals[part.numbers] &= ~(current & part.stored.without_signals(part.measures))
        return has_signals


async def touch_units(
    cursor: AsyncCursor,
    assignments: Assignments,
    measures: Mapping[int, Measures],
    shares: Mapping[int, Shares],
    *,
    stored: bool = False,
) -> Touched:
    """Lock the units of exposed, locked assignments. `shares` are those that may follow outcomes.

    Where each assignment is a unit, the unit of an assignment that is not counted yet has no row, unless
    the caller knows that all are `stored`.
    """
    keys, number = _keys(assignments, measures)
    old = np.full(len(keys), stored)
    old[number[assignments["counted"]]] = True
    asked = np.flatnonzero(old | (keys["id"] == b""))
    has_row, place = np.zeros(len(keys), np.bool_), np.zeros(len(keys), "V6")
    heads, segments, bodies = np.empty(0, _STORED), [], []
    if len(asked):
        await _stage(cursor, keys, asked)
        heads = await arrays(cursor, _LOCK_UNIT_TOTALS, _STORED)
        segments = [name.decode() for name in pieces(cursor, len(_STORED), heads["segment_length"])]
        bodies = pieces(cursor, len(_STORED) + 1, heads["body_length"])
        has_row[heads["number"]] = True
        place[heads["number"]] = heads["place"]
    parts = []
    for experiment_id, numbers in _runs(keys["experiment_id"]):
        chosen = slice(*np.searchsorted(heads["number"], (numbers.start, numbers.stop)).tolist())
        read, readable = Units.read(heads[chosen], segments[chosen], bodies[chosen], measures[experiment_id])
        places = heads["number"][chosen] - numbers.start
        # Cells count a unit that is stored again twice, until `wald rebuild` repairs them.
        for key in keys[numbers][places[~readable]].tolist():
            report_unusable("unit_totals", key, _NO_SUMS)
        known, outdated = np.zeros((2, numbers.stop - numbers.start), np.bool_)
        known[places] = readable
        outdated[places] = heads["layout"][chosen] != measures[experiment_id].layout
        spread = read.spread(places, len(known))
        rules = measures[experiment_id], shares.get(experiment_id)
        parts.append(Part(experiment_id, *rules, numbers, spread, known, outdated))
    return Touched(keys, number, has_row, place, old | has_row, parts)


def fresh_contexts(logged: Logged, touching: Integers, measures: Mapping[int, Measures]) -> Contexts | None:
    """Return the contexts of touched assignments whose exposure is new, by their place in `touching`.

    Without a batch return None: all contexts have to be read from the log.
    """
    if logged.exposures is None:
        return None
    if not any(measured.reads_contexts for measured in measures.values()):
        return {}
    fresh = np.flatnonzero((touching < len(logged.exposures)) & ~logged.assignments["counted"][touching])
    exposures = [logged.exposures[place] for place in touching[fresh].tolist()]
    return {
        number: exposure.context
        for number, exposure in zip(fresh.tolist(), exposures, strict=True)
        if exposure is not None
    }


async def move_units(
    cursor: AsyncCursor,
    touched: Touched,
    assignments: Assignments,
    given: Given,
    *,
    contexts: Contexts | None,
    measures: Mapping[int, Measures],
    shares: Mapping[int, Shares],
) -> set[int]:
    """Bring touched units up to date, and move their cells and series by the difference.

    `assignments` are the touched ones with their new rewards, and `given` has all signals about them.
    `contexts` as from `fresh_contexts`. Return the experiments whose units changed.
    """
    changed: set[int] = set()
    differences: dict[MinuteKey, CellTotals] = {}
    strata: dict[StratumKey, CellTotals] = {}
    while len(touched.keys):  # a second time for units that another transaction stored in between
        measured = await _measured(cursor, touched, assignments, given, contexts)
        moved = [part.moved(units) for part, units in zip(touched.parts, measured, strict=True)]
        overtaken = await _store(cursor, touched, measured, moved)
        for part, units, mask in zip(touched.parts, measured, moved, strict=True):
            stored = mask & ~overtaken[part.numbers]
            if stored.any():
                changed.add(part.experiment_id)
                new, old = units.of(stored), part.stored.of(stored & part.known)
                moving = part.experiment_id, new | old, part.measures
                signs = np.repeat([1, -1], [len(new.sums), len(old.sums)])
                for key, totals in totals_by_minute(*moving, signs).items():
                    add(differences, key, totals)
                for stratum, totals in totals_by_stratum(*moving, signs).items():
                    add(strata, stratum, totals)
        again = np.flatnonzero(overtaken[touched.number])
        assignments, given, contexts = assignments[again], given.about(again), None
        touched = await touch_units(cursor, assignments, measures, shares, stored=True)
    await move_cells(cursor, cells(differences), measures)
    await move_series(cursor, series(differences, measures), measures)
    await move_strata(cursor, strata, measures)
    return changed


def _keys(assignments: Assignments, measures: Mapping[int, Measures]) -> tuple[NDArray[np.void], Integers]:
    """Return the units of assignments, each once and in key order, and the number of each one's unit."""
    keys = np.empty(len(assignments), _KEY)
    for name in _KEY.names or ():
        keys[name] = assignments[name]
    by_unit = [key for key, measured in measures.items() if not measured.each_assignment]
    keys["id"][np.isin(assignments["experiment_id"], by_unit)] = b""
    order = np.lexsort([keys[name] for name in reversed(_KEY.names or ())])
    keys = keys[order]
    first = np.ones(len(keys), np.bool_)
    first[1:] = np.logical_or.reduce([keys[name][1:] != keys[name][:-1] for name in _KEY.names or ()])
    number = np.empty(len(keys), np.int64)
    number[order] = np.cumsum(first) - 1
    return keys[first], number


def _runs(values: NDArray[Any]) -> Iterator[tuple[int, slice]]:
    """Yield each value of an ascending column, and its slice."""
    for start, end in pairwise([*starts_of(values).tolist(), len(values)]):
        yield int(values[start]), slice(start, end)


async def _measured(
    cursor: AsyncCursor, touched: Touched, assignments: Assignments, given: Given, contexts: Contexts | None
) -> list[Units]:
    """Measure the touched units, by parts."""
    others, number, signals = await _read_others(cursor, touched, assignments, given)
    members, number = np.concatenate([assignments, others]), np.concatenate([touched.number, number])
    order = np.lexsort((members["id"], number))
    place_in_unit = np.arange(len(order)) - starts_of(number[order])[number[order]]
    order = order[place_in_unit < limits.UNIT_ASSIGNMENTS_MAX]
    members, number, signals = members[order], number[order], signals.about(order)
    heads = await _heads(cursor, touched, order[starts_of(number)], contexts)
    silent_until_us = await _silent_until_us(cursor, touched)
    measured = []
    for part, head in zip(touched.parts, heads, strict=True):
        chosen = np.flatnonzero((number >= part.numbers.start) & (number < part.numbers.stop))
        numbers, about = number[chosen] - part.numbers.start, signals.about(chosen)
        units = measure(members[chosen], numbers, about, head, part.measures, silent_until_us=silent_until_us)
        if part.shares is not None:
            units = part.shares.applied(units, members[chosen][starts_of(numbers)])
        measured.append(units)
    return measured


async def _read_others(
    cursor: AsyncCursor, touched: Touched, assignments: Assignments, given: Given
) -> tuple[Assignments, Integers, Given]:
    """Read the other assignments of returning units. Return them, their units, and all signals."""
    returning = np.flatnonzero(touched.old & (touched.keys["id"] == b""))
    if not len(returning):
        return assignments[:0], touched.number[:0], given
    await _stage(cursor, touched.keys, returning)
    bound = {"assignments_max": limits.UNIT_ASSIGNMENTS_MAX}
    stored = await arrays(cursor, _READ_UNIT_ASSIGNMENTS, _OF_UNITS, bound)
    stored = stored[~np.isin(stored["id"], assignments["id"])]
    others, keys = np.zeros(len(stored), ASSIGNMENT), touched.keys[stored["number"]]
    for name in ("experiment_id", "unit_hash", "epoch"):
        others[name] = keys[name]
    for name in ("id", "assigned_us", "deadline_us", "variant", "propensity", "reward"):
        others[name] = stored[name]
    others["exposed"] = True
    unread = np.flatnonzero(touched.has_signals[stored["number"]])
    if not len(unread):
        return others, stored["number"], given
    await cursor.execute("DELETE FROM unread")  # rows that the rewards step staged
    read = await read_signals(cursor, len(assignments) + unread, others[unread], given.names)
    return others, stored["number"], Given(np.concatenate([given.signals, read.signals]), read.names)


async def _heads(
    cursor: AsyncCursor, touched: Touched, firsts: Integers, contexts: Contexts | None
) -> list[Heads]:
    """Return segments and covariates by parts.

    Stored values stay, unless the exposure of a unit's first assignment has just arrived.
    """
    known: dict[int, Mapping[str, Any] | None] = {}
    if contexts:
        known = {number: contexts[first] for number, first in enumerate(firsts.tolist()) if first in contexts}
    unread = np.zeros(len(touched.keys), np.bool_)
    for part in touched.parts:
        if part.measures.reads_contexts:
            unread[part.numbers] = ~part.known | part.outdated | (contexts is None)
    unread[list(known)] = False
    if unread.any():
        await _stage(cursor, touched.keys, np.flatnonzero(unread))
        await cursor.execute(_READ_UNIT_CONTEXTS)
        known |= dict(await cursor.fetchall())
    heads = []
    for part in touched.parts:
        numbers = [number for number in range(part.numbers.start, part.numbers.stop) if number in known]
        fresh = Heads.of((known[number] for number in numbers), part.measures)
        segments, covariates = part.stored.segments.copy(), part.stored.covariates.copy()
        places = np.array(numbers, np.intp) - part.numbers.start
        segments[places], covariates[places] = fresh.segments, fresh.covariates
        heads.append(Heads(segments, covariates))
    return heads


async def _silent_until_us(cursor: AsyncCursor, touched: Touched) -> float:
    """Read the sweep's position after units are locked; minus infinity if no metric reads silence."""
    if not any(part.measures.reads_silence for part in touched.parts):
        return -math.inf
    await cursor.execute(_SWEPT_UNTIL)
    row = await cursor.fetchone()
    assert row is not None
    swept_until_us: float = row[0]
    return swept_until_us


async def _stage(cursor: AsyncCursor, keys: NDArray[np.void], numbers: Integers) -> None:
    """Stage the keys of units with these numbers."""
    await cursor.execute("DELETE FROM touched_units")
    staged = rows.rows(len(numbers), number=(">i4", numbers), **_key_columns(keys[numbers]))
    await copy(cursor, "touched_units", staged)


def _key_columns(keys: NDArray[np.void]) -> dict[str, tuple[str, Any]]:
    return {
        "experiment_id": (">i4", keys["experiment_id"]),
        "epoch": (">i4", keys["epoch"]),
        "unit_hash": (">i8", keys["unit_hash"]),
        "assignment_id": ("S16", keys["id"]),
    }


async def _store(
    cursor: AsyncCursor, touched: Touched, measured: Sequence[Units], moved: Sequence[Flags]
) -> Flags:
    """Store the units that moved. Return the mask of units that another transaction stored meanwhile."""
    overtaken = np.zeros(len(touched.keys), np.bool_)
    mask = np.concatenate([overtaken[:0], *moved])
    changed, new = mask & touched.stored, mask & ~touched.stored
    if changed.any():
        place = {"place": ("V6", touched.place[changed])}
        await cursor.execute("DELETE FROM changed_units")
        await copy(cursor, "changed_units", _unit_rows(touched, measured, changed, place))
        await cursor.execute(_STORE_UNIT_TOTALS)
    if new.any():
        keys = touched.keys[new]
        overtaken[new] = await _insert(cursor, keys, _unit_rows(touched, measured, new, _key_columns(keys)))
    return overtaken


async def _insert(cursor: AsyncCursor, keys: NDArray[np.void], units: Rows) -> Flags:
    """Store and lock new units. Return the mask of units that another transaction stored meanwhile."""
    try:
        async with cursor.connection.transaction():
            await copy(cursor, _NEW_UNITS, units)
        return np.zeros(len(keys), np.bool_)
    except UniqueViolation:
        await cursor.execute("DELETE FROM new_units")
        await copy(cursor, "new_units", units)
        made = set((await arrays(cursor, _INSERT_UNIT_TOTALS, _MADE)).tolist())
        return np.array([key not in made for key in keys.tolist()], np.bool_)


def _unit_rows(
    touched: Touched, measured: Sequence[Units], chosen: Flags, columns: Mapping[str, tuple[str, Any]]
) -> Rows:
    """Return the rows of the chosen units, behind these columns."""
    segments, bodies, heads = [], [], []
    for part, units in zip(touched.parts, measured, strict=True):
        some = units.of(chosen[part.numbers])
        texts = [rows.text(name) for name in part.measures.segments]
        segments += [texts[segment] for segment in some.segments.tolist()]
        encoded = some.bodies()
        raw = {body: rows.raw(body) for body in set(encoded)}
        bodies += [raw[body] for body in encoded]
        layouts = np.full(len(some.variants), part.measures.layout)
        heads.append(
            np.stack([some.variants, some.crossed, some.minutes, some.strata, some.weights, layouts])
        )
    variant, crossed, minute, stratum, weight, layout = np.concatenate(heads, axis=1)
    return rows.rows(
        len(segments),
        segments,
        bodies,
        **columns,
        variant=(">i2", variant),
        crossed=("u1", crossed),
        minute=(">i4", minute),
        stratum=(">i2", stratum),
        weight=(">i8", weight),
        layout=(">i2", layout),
    )


async def recount_units(
    cursor: AsyncCursor, experiment_id: int, measures: Measures
) -> tuple[list[CellKey], list[tuple[int, int]], list[tuple[int, int]]]:
    """Set an experiment's cells, series and strata to the sums of its units, under a lock on all tables.

    Units that the log does not know are deleted first. Return the keys of the cells that differed, and
    (epoch, variant) of the series and of the strata that did.
    """
    await cursor.execute(_DELETE_GHOST_UNITS, {"experiment_id": experiment_id})
    fresh: dict[CellKey, CellTotals] = {}
    minutes: dict[SeriesKey, CellTotals] = {}
    strata: dict[StratumKey, CellTotals] = {}
    async with cursor.connection.cursor(name="units") as stored:
        await stored.execute(_READ_UNITS, (experiment_id,))
        while page := await stored.fetchmany(limits.SWEEP_ASSIGNMENTS_MAX):
            heads = np.array([row[1:8] for row in page], HEAD)
            units, readable = Units.read(heads, [row[8] for row in page], [row[9] for row in page], measures)
            for place in np.flatnonzero(~readable).tolist():
                report_unusable("unit_totals", (experiment_id, *page[place][:2]), _NO_SUMS)
            by_minute = totals_by_minute(experiment_id, units.of(readable), measures)
            for cell, totals in cells(by_minute).items():
                add(fresh, cell, totals)
            for minute, totals in series(by_minute, {experiment_id: measures}).items():
                add(minutes, minute, totals)
            for stratum, totals in totals_by_stratum(experiment_id, units.of(readable), measures).items():
                add(strata, stratum, totals)
    differed = await recount_cells(cursor, experiment_id, fresh, measures)
    moved = await recount_series(cursor, experiment_id, minutes, measures)
    return differed, moved, await recount_strata(cursor, experiment_id, strata, measures)
