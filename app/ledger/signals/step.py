"""The step that logs signals, and that counts the log's signals by name and state."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, LiteralString, NamedTuple

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncCursor

from app.core import locks
from app.experiments.signals import SignalUse
from app.feedback.limits import CLOCK_TOLERANCE_US
from app.feedback.model import SIGNAL_STATES
from app.ledger import limits, rows
from app.ledger.log.batch import StagedSignals, UnitSignals
from app.ledger.rewards.model import Assignments, Integers
from app.ledger.session import arrays, copy, sql
from app.ledger.signals.tally import SignalKey, SignalMove, SignalTally, Uses, exposed, of_state, uses_of

OTHERS: Final = ""
"""Name of the row that counts all signals of an experiment without a row of their own."""

_INSERT_SIGNALS: Final = sql(__package__, "insert_signals")
_READ_REPEATED_SIGNALS: Final = sql(__package__, "read_repeated_signals")
_REVISE_SIGNALS: Final = sql(__package__, "revise_signals")
_INSERT_UNIT_SIGNALS: Final = sql(__package__, "insert_unit_signals")
_READ_REPEATED_UNIT_SIGNALS: Final = sql(__package__, "read_repeated_unit_signals")
_REVISE_UNIT_SIGNALS: Final = sql(__package__, "revise_unit_signals")
_AFFECT_BY_UNIT_SIGNALS: Final = sql(__package__, "affect_by_unit_signals")
_COUNT_WAITING_SIGNALS: Final = sql(__package__, "count_waiting_signals")
_LOCK_UNIT_SCOPE: Final = sql(__package__, "lock_unit_scope")
_COUNT_UNIT_SCOPE: Final = sql(__package__, "count_unit_scope")
_ADD_TO_SIGNAL_TOTALS: Final = sql(__package__, "add_to_signal_totals")
_RECOUNT_SIGNALS: Final = sql(__package__, "recount_signals")

_REPEATED: Final = (("number", ">i4"), ("value", ">f8"), ("conflicts", "u1"))
_NUMBER: Final = (("number", ">i4"),)
_NAMED: Final = """
    SELECT experiment_id, signal
    FROM unnest(%s::integer[], %s::text[]) AS asked (experiment_id, signal)
    JOIN signal_totals USING (experiment_id, signal)
"""
_NAMES: Final = "SELECT experiment_id, signal FROM signal_totals WHERE experiment_id = ANY(%s)"
_TOLERANCE: Final = {"tolerance_us": CLOCK_TOLERANCE_US}

Flags = NDArray[np.bool_]
UnitStates = dict[tuple[int, str, bool, int], int]
"""Number of signals by unit, by experiment, name, whether they are new in the log, and state."""


class _Written(NamedTuple):
    """Result of writing staged signals: which are new, which replaced a value, and the former values."""

    fresh: Flags
    revised: Integers
    before: Mapping[int, float]
    n_conflicts: int


async def log_signals(cursor: AsyncCursor, staged: StagedSignals, tally: SignalTally) -> bool:
    """Log signals by assignment id. Return whether each of them was new or replaced a value."""
    await copy(cursor, "staged_signals", staged.rows)
    statements = (_INSERT_SIGNALS, _READ_REPEATED_SIGNALS, _REVISE_SIGNALS)
    written = await _write(cursor, staged.rows.n, statements)
    tally.add_signals(staged, written.fresh)
    for number in written.revised.tolist():
        key = int(staged.experiment_id[number]), staged.names[staged.name[number]]
        value, received_us = float(staged.value[number]), int(staged.received_us[number])
        tally.add_value(key, value, received_us, before=written.before[number])
    tally.results["conflict"] += written.n_conflicts
    return bool(written.fresh.sum() + len(written.revised) == staged.rows.n)


async def log_unit_signals(cursor: AsyncCursor, units: UnitSignals, tally: SignalTally) -> None:
    """Log signals by unit, and note the assignments that they may belong to as affected."""
    await copy(cursor, "staged_unit_signals", units.rows())
    statements = (_INSERT_UNIT_SIGNALS, _READ_REPEATED_UNIT_SIGNALS, _REVISE_UNIT_SIGNALS)
    written = await _write(cursor, units.n, statements)
    tally.add_unit_values(units, written.fresh)
    for number in written.revised.tolist():
        signal, received_us = units.signals[number], units.received_us[number]
        key = signal.experiment_id, signal.signal
        tally.add_value(key, signal.value, received_us, before=written.before[number])
    tally.results["conflict"] += written.n_conflicts
    effective = written.fresh.copy()
    effective[written.revised] = True
    if not effective.all():
        await cursor.execute(
            "DELETE FROM staged_unit_signals WHERE number = ANY(%s)", (np.flatnonzero(~effective).tolist(),)
        )
    await cursor.execute(_AFFECT_BY_UNIT_SIGNALS, _TOLERANCE)
    await cursor.execute(
        "INSERT INTO unit_scope SELECT experiment_id, unit_hash, at, true, signal FROM staged_unit_signals"
        " WHERE number <> ALL(%s)",
        (written.revised.tolist(),),
    )


async def _write(
    cursor: AsyncCursor, n: int, statements: tuple[LiteralString, LiteralString, LiteralString]
) -> _Written:
    """Insert staged signals. If some were in the log before, read and revise these."""
    insert, read_repeated, revise = statements
    await cursor.execute(insert)
    fresh, none = np.ones(n, np.bool_), np.empty(0, np.int64)
    if cursor.rowcount == n:
        return _Written(fresh, none, {}, 0)
    repeated = await arrays(cursor, read_repeated, _REPEATED)
    revised = (await arrays(cursor, revise, _NUMBER))["number"].astype(np.int64)
    fresh[repeated["number"]] = False
    before = dict(zip(repeated["number"].tolist(), repeated["value"].tolist(), strict=True))
    return _Written(fresh, revised, before, int(repeated["conflicts"].sum()))


async def count_waiting(cursor: AsyncCursor, exposing: Assignments, tally: SignalTally) -> None:
    """Count the signals that waited for the exposure of these assignments."""
    await copy(
        cursor,
        "exposing",
        rows.rows(
            len(exposing),
            id=("S16", exposing["id"]),
            since=rows.timestamps(exposing["assigned_us"] - CLOCK_TOLERANCE_US),
            deadline=rows.timestamps(exposing["deadline_us"]),
        ),
    )
    await cursor.execute(_COUNT_WAITING_SIGNALS)
    for experiment_id, name, n in await cursor.fetchall():
        tally.add((experiment_id, name), exposed(n))


async def lock_unit_scope(cursor: AsyncCursor, exposures: Assignments) -> UnitStates:
    """Lock the signals by unit that may belong to other assignments once these are exposed.

    Call this before any of the assignments is locked or stored. Return the current states.
    """
    if not len(exposures):
        return {}
    keys, unit_of = np.unique(exposures[["experiment_id", "unit_hash"]], return_inverse=True)
    first, last = np.full(len(keys), np.iinfo(np.int64).max), np.full(len(keys), np.iinfo(np.int64).min)
    np.minimum.at(first, unit_of, exposures["assigned_us"])
    np.maximum.at(last, unit_of, exposures["assigned_us"])
    staged = rows.rows(
        len(keys),
        experiment_id=(">i4", keys["experiment_id"]),
        unit_hash=(">i8", keys["unit_hash"]),
        since=rows.timestamps(first - CLOCK_TOLERANCE_US),
        until=rows.timestamps(last),
    )
    await copy(cursor, "exposed_units", staged)
    await cursor.execute(_LOCK_UNIT_SCOPE)
    return await _unit_states(cursor) if cursor.rowcount else {}


async def count_unit_scope(cursor: AsyncCursor, before: UnitStates, tally: SignalTally) -> None:
    """Count the states of the signals by unit in scope, less the states `before`."""
    after = await _unit_states(cursor)
    for experiment_id, name, fresh, state in before.keys() | after.keys():
        key = experiment_id, name, fresh, state
        n = after.get(key, 0) - before.get(key, 0)
        tally.add((experiment_id, name), of_state(state, n))
        if fresh:
            tally.logged((experiment_id, name), state, n)


async def _unit_states(cursor: AsyncCursor) -> UnitStates:
    await cursor.execute(_COUNT_UNIT_SCOPE, _TOLERANCE)
    return {(row[0], row[1], row[2], row[3]): row[4] for row in await cursor.fetchall()}


async def add_to_signal_totals(cursor: AsyncCursor, tally: SignalTally) -> None:
    """Add one transaction's moves. Names beyond `SIGNAL_NAMES_MAX` share the row `OTHERS`."""
    kept = {key: move for key, move in tally.moves.items() if not move.empty}
    if not kept:
        return
    await cursor.execute(_NAMED, _columns(kept))
    named = set(await cursor.fetchall())
    if len(named) < len(kept):
        named |= await _admitted(cursor, [key for key in kept if key not in named], tally.uses)
    totals: dict[SignalKey, SignalMove] = {}
    for key, move in kept.items():
        place = key if key in named else (key[0], OTHERS)
        totals[place] = totals[place] + move if place in totals else move
    await cursor.execute(_ADD_TO_SIGNAL_TOTALS, _parameters(totals))


async def _admitted(cursor: AsyncCursor, missing: Sequence[SignalKey], uses: Uses) -> set[SignalKey]:
    """Return which missing names get a row: names that are read, and others up to the bound.

    One transaction at a time adds names to an experiment.
    """
    experiment_ids = sorted({experiment_id for experiment_id, _ in missing})
    for experiment_id in experiment_ids:
        await cursor.execute(locks.LOCK_MEMBER, (locks.SIGNAL_NAMES, experiment_id))
    await cursor.execute(_NAMES, (experiment_ids,))
    stored = set(await cursor.fetchall())
    return admitted(stored, missing, uses)


def admitted(stored: Collection[SignalKey], missing: Iterable[SignalKey], uses: Uses) -> set[SignalKey]:
    """Return the names that have a row: `stored` ones, names that are read, and others up to the bound."""
    room: dict[int, int] = {}
    for experiment_id, name in stored:
        if name != OTHERS:
            room[experiment_id] = room.get(experiment_id, limits.SIGNAL_NAMES_MAX) - 1
    chosen = set(stored)
    for experiment_id, name in missing:
        key = experiment_id, name
        n_left = room.get(experiment_id, limits.SIGNAL_NAMES_MAX)
        if key not in chosen and (n_left > 0 or uses(*key) is not None):
            chosen.add(key)
            room[experiment_id] = n_left - 1
    return chosen


async def recount_signals(
    cursor: AsyncCursor, experiment_id: int, signals: Mapping[str, SignalUse]
) -> list[str]:
    """Set an experiment's totals of signals to its log, by a difference within one snapshot.

    Names that have a row keep it. Of the others, names that are read get a row first, then the rest in
    order. Return the names that differed.
    """
    uses = uses_of({experiment_id: signals})
    named = list(signals)
    bounds = {
        "experiment_id": experiment_id,
        "tolerance_us": CLOCK_TOLERANCE_US,
        "named": named,
        "lows": [signals[name].low for name in named],
        "highs": [signals[name].high for name in named],
    }
    await cursor.execute(_RECOUNT_SIGNALS, bounds)
    logged: dict[SignalKey, SignalMove] = {}
    stored: dict[SignalKey, SignalMove] = {}
    for is_kept, name, states, *values in await cursor.fetchall():
        moves = stored if is_kept else logged
        moves[experiment_id, name] = SignalMove(tuple(states), *values)
    missing = sorted(logged.keys() - stored.keys(), key=lambda key: (uses(*key) is None, key))
    rows_for = admitted(stored, missing, uses)
    right: dict[SignalKey, SignalMove] = dict.fromkeys(stored, SignalMove())
    for key, move in logged.items():
        place = key if key in rows_for else (experiment_id, OTHERS)
        right[place] = right.get(place, SignalMove()) + move
    differences = {
        key: _difference(move, stored.get(key, SignalMove()))
        for key, move in right.items()
        if (move.states, move.out_of_range) != tuple(stored.get(key, SignalMove()))[:2]
    }
    if differences:
        await cursor.execute(_ADD_TO_SIGNAL_TOTALS, _parameters(differences))
    return sorted(name for _, name in differences)


def _difference(right: SignalMove, stored: SignalMove) -> SignalMove:
    states = tuple(a - b for a, b in zip(right.states, stored.states, strict=True))
    return right._replace(states=states, out_of_range=right.out_of_range - stored.out_of_range)


def _columns(keys: Iterable[SignalKey]) -> tuple[list[int], list[str]]:
    pairs = sorted(keys)
    return [experiment_id for experiment_id, _ in pairs], [name for _, name in pairs]


def _parameters(totals: Mapping[SignalKey, SignalMove]) -> dict[str, list[object]]:
    moves = list(totals.values())
    states: dict[str, list[object]] = {
        state.value: [move.states[place] for move in moves] for place, state in enumerate(SIGNAL_STATES)
    }
    return {
        "experiment_id": [experiment_id for experiment_id, _ in totals],
        "signal": [name for _, name in totals],
        **states,
        "out_of_range": [move.out_of_range for move in moves],
        "lowest": [move.lowest for move in moves],
        "highest": [move.highest for move in moves],
        "last_us": [move.last_us for move in moves],
    }
