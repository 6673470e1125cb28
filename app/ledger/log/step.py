"""The step that logs assignments and signals, and locks the assignments for the steps after it."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncCursor

from app.assignment.exposure import Exposure
from app.feedback.limits import CLOCK_TOLERANCE_US
from app.ledger import rows
from app.ledger.log.batch import Batch
from app.ledger.rewards.model import ASSIGNMENT, GIVEN, PENDING, Assignments, Given, Integers, Rule
from app.ledger.session import arrays, copy, pieces, sql
from app.ledger.signals.step import (
    count_unit_scope,
    count_waiting,
    lock_unit_scope,
    log_signals,
    log_unit_signals,
)
from app.ledger.signals.tally import SignalTally

_LOCK_STAGED: Final = sql(__package__, "lock_staged")
_INSERT_ASSIGNMENTS: Final = sql(__package__, "insert_assignments")
_EXPOSE_ASSIGNMENTS: Final = sql(__package__, "expose_assignments")
_AFFECT_BY_UNIT: Final = sql(__package__, "affect_by_unit")
_LOCK_AFFECTED: Final = sql(__package__, "lock_affected")
_READ_SIGNALS: Final = sql(__package__, "read_signals")

# Columns of results that are one row of arrays.
_PLACE: Final = ("place", "V6")
_LOCKED: Final = (
    ("number", ">i4"),
    _PLACE,
    ("deadline_us", ">i8"),
    ("exposed", "u1"),
    ("outcome", ">i2"),
    ("reward", ">i4"),
)
_STORED: Final = (("id", "S16"), _PLACE)
_AFFECTED: Final = (
    _PLACE,
    ("experiment_id", ">i4"),
    ("unit_hash", ">i8"),
    ("id", "S16"),
    ("assigned_us", ">i8"),
    ("deadline_us", ">i8"),
    ("epoch", ">i4"),
    ("variant", ">i2"),
    ("propensity", ">f8"),
    ("exposed", "u1"),
    ("outcome", ">i2"),
    ("reward", ">i4"),
)

_SIGNALS: Final = (
    ("owner", ">i4"),
    ("source", ">i2"),
    ("at_us", ">i8"),
    ("value", ">f8"),
    ("name_length", ">i4"),
)


class Logged(NamedTuple):
    """Assignments that a transaction has locked, some of which have to be resolved.

    `resolving` says which. `given` is the whole log of those of them that are not `unread`. `exposures` are
    those that came for the first of them, in this batch; null: there is no batch.
    """

    assignments: Assignments
    resolving: NDArray[np.bool_]
    unread: NDArray[np.bool_]
    given: Given
    exposures: Sequence[Exposure | None] | None = None


async def log(cursor: AsyncCursor, batch: Batch, rules: Mapping[int, Rule], tally: SignalTally) -> Logged:
    """Take a batch into the log, and count what becomes of its signals."""
    horizons = [rules[one].horizon_us for one in batch.bodies["experiment_id"].tolist()]
    assignments = batch.assignments(np.array(horizons, np.int64))
    heard_by_unit = [experiment_id for experiment_id, rule in rules.items() if rule.by_unit]
    taking = batch.exposed & np.isin(assignments["experiment_id"], heard_by_unit)
    before = await lock_unit_scope(cursor, assignments[taking])
    new, exposing = await _log_assignments(cursor, batch, assignments)
    tally.results["exposure"] += int((new & batch.exposed).sum() + exposing.sum())
    if exposing.any():
        await count_waiting(cursor, assignments[exposing], tally)
    spoken = np.zeros(len(assignments), np.bool_)
    spoken[batch.given.signals["owner"]] = True
    # The log says nothing that counts about what is exposed and pending, or has just been stored.
    unread = ~new & ~(assignments["exposed"] & (assignments["outcome"] == PENDING)) | exposing
    if not await _log_signals(cursor, batch, assignments, tally):
        named = [one is not None for one in batch.ids]
        unread[batch.given.signals["owner"][np.array(named, np.bool_)]] = True
    resolving = spoken | exposing
    elsewhere = await _log_unit_signals(cursor, batch, heard_by_unit, tally)
    if before or batch.unit_signals.n:
        await count_unit_scope(cursor, before, tally)
    if not len(elsewhere):
        return Logged(assignments, resolving, unread, batch.given, batch.exposures)
    known = np.isin(assignments["id"], elsewhere["id"])
    elsewhere = elsewhere[~np.isin(elsewhere["id"], assignments["id"])]
    others = np.ones(len(elsewhere), np.bool_)
    return Logged(
        np.concatenate([assignments, elsewhere]),
        np.concatenate([resolving | known, others]),
        np.concatenate([unread | known, others]),
        batch.given,
        batch.exposures,
    )


async def _log_assignments(
    cursor: AsyncCursor, batch: Batch, assignments: Assignments
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Store what is new and lock what is stored; `assignments` become as they stand then.

    Returns which are new, and which of the others have their exposure only now.
    """
    new, locked = np.zeros((2, len(assignments)), np.bool_)
    missing = batch.exposed  # very likely: what is only spoken of is stored by then
    while not (new | locked).all():  # a third time if somebody else has stored some in between
        if missing.any():
            await copy(
                cursor, "staged_assignments", batch.assignment_rows(missing, assignments["deadline_us"])
            )
            stored = await arrays(cursor, _INSERT_ASSIGNMENTS, _STORED)
            place = _at(assignments, stored, missing)
            assignments["place"][place] = stored["place"]
            new[place] = True
        unknown = ~(new | locked)
        if unknown.any():
            await copy(cursor, "staged_keys", batch.keys(np.flatnonzero(unknown)))
            found = await arrays(cursor, _LOCK_STAGED, _LOCKED)
            numbers = found["number"]
            for name in ("place", "deadline_us", "exposed", "outcome", "reward"):
                assignments[name][numbers] = found[name]
            assignments["counted"][numbers] = found["exposed"]
            locked[numbers] = True
        missing = ~(new | locked)
    exposing = batch.exposed & ~assignments["exposed"]
    if exposing.any():
        exposed = await arrays(cursor, _EXPOSE_ASSIGNMENTS, _STORED)
        assignments["place"][_at(assignments, exposed, exposing)] = exposed["place"]
        assignments["exposed"][exposing] = True
    return new, exposing


def _at(assignments: Assignments, stored: NDArray[np.void], among: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Where in `assignments` those are that were stored; most often all that are `among` them, in order."""
    numbers = np.flatnonzero(among)
    if np.array_equal(assignments["id"][numbers], stored["id"]):
        return numbers
    position = dict(zip(assignments["id"][numbers].tolist(), numbers.tolist(), strict=True))
    return np.array([position[one] for one in stored["id"].tolist()], np.intp)


async def _log_signals(
    cursor: AsyncCursor, batch: Batch, assignments: Assignments, tally: SignalTally
) -> bool:
    """Log signals by assignment id. Returns whether each of them said something new."""
    if not len(batch.given.signals):
        return True
    return await log_signals(cursor, batch.staged_signals(assignments), tally)


async def _log_unit_signals(
    cursor: AsyncCursor, batch: Batch, heard_by_unit: Sequence[int], tally: SignalTally
) -> Assignments:
    """Log signals by unit; lock the assignments that they, or those logged before, may now belong to."""
    if not batch.unit_signals.n and not heard_by_unit:
        return np.empty(0, ASSIGNMENT)
    if batch.unit_signals.n:
        await log_unit_signals(cursor, batch.unit_signals, tally)
    await cursor.execute(_AFFECT_BY_UNIT)
    return await lock_affected(cursor)


async def lock_affected(cursor: AsyncCursor) -> Assignments:
    """Lock the assignments that stand in `affected`."""
    found = await arrays(cursor, _LOCK_AFFECTED, _AFFECTED)
    affected = np.zeros(len(found), ASSIGNMENT)
    for name, _ in _AFFECTED:
        affected[name] = found[name]
    affected["counted"] = affected["exposed"]
    return affected


async def read_signals(
    cursor: AsyncCursor, owners: Integers, assignments: NDArray[np.void], known_names: Sequence[str] = ()
) -> Given:
    """The signals in time that the log has about assignments, by their `owners`.

    `assignments` have the fields experiment_id, unit_hash, id, assigned_us, deadline_us and exposed. Names
    come behind those known.
    """
    await copy(
        cursor,
        "unread",
        rows.rows(
            len(assignments),
            owner=(">i4", owners),
            experiment_id=(">i4", assignments["experiment_id"]),
            unit_hash=(">i8", assignments["unit_hash"]),
            id=("S16", assignments["id"]),
            assigned_at=rows.timestamps(assignments["assigned_us"]),
            deadline=rows.timestamps(assignments["deadline_us"]),
            exposed=("u1", assignments["exposed"]),
        ),
    )
    found = await arrays(cursor, _READ_SIGNALS, _SIGNALS, {"tolerance_us": CLOCK_TOLERANCE_US})
    signals = [name.decode() for name in pieces(cursor, len(_SIGNALS), found["name_length"])]
    names = list(dict.fromkeys([*known_names, *signals]))
    position = {name: number for number, name in enumerate(names)}
    read = np.empty(len(found), GIVEN)
    for name in ("owner", "source", "at_us", "value"):
        read[name] = found[name]
    read["name"] = [position[name] for name in signals]
    return Given(read, names)
