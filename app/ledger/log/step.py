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
from app.ledger.rewards.model import (
    ASSIGNMENT,
    GIVEN,
    PENDING,
    Assignments,
    Given,
    Integers,
    Rule,
    undoubled,
)
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
    ("derived", "u1"),
    ("name_length", ">i4"),
)


class Logged(NamedTuple):
    """Assignments that a transaction has locked.

    `resolving` is the mask of those to resolve. `given` has all logged signals about those that are not
    `unread`. `exposures` has the batch's exposures of the first assignments; None without a batch.
    """

    assignments: Assignments
    resolving: NDArray[np.bool_]
    unread: NDArray[np.bool_]
    given: Given
    exposures: Sequence[Exposure | None] | None = None


async def log(cursor: AsyncCursor, batch: Batch, rules: Mapping[int, Rule], tally: SignalTally) -> Logged:
    """Log a batch, and count the states of its signals."""
    horizons = [rules[experiment_id].horizon_us for experiment_id in batch.bodies["experiment_id"].tolist()]
    assignments = batch.assignments(np.array(horizons, np.int64))
    with_unit_signals = [experiment_id for experiment_id, rule in rules.items() if rule.by_unit]
    taking = batch.exposed & np.isin(assignments["experiment_id"], with_unit_signals)
    before = await lock_unit_scope(cursor, assignments[taking])
    new, exposing = await _log_assignments(cursor, batch, assignments)
    tally.results["exposure"] += int((new & batch.exposed).sum() + exposing.sum())
    if exposing.any():
        await count_waiting(cursor, assignments[exposing], tally)
    has_feedback = np.zeros(len(assignments), np.bool_)
    has_feedback[batch.given.signals["owner"]] = True
    # The log has no counting signal about an assignment that is exposed and pending, or newly stored.
    # Where a reward waits for required signals, a pending assignment may have others.
    unread = ~new & ~(assignments["exposed"] & (assignments["outcome"] == PENDING)) | exposing
    if waiting := [experiment_id for experiment_id, rule in rules.items() if rule.waits]:
        unread |= ~new & np.isin(assignments["experiment_id"], waiting)
    if not await _log_signals(cursor, batch, assignments, tally):
        has_id = [event_id is not None for event_id in batch.ids]
        unread[batch.given.signals["owner"][np.array(has_id, np.bool_)]] = True
    resolving = has_feedback | exposing
    elsewhere = await _log_unit_signals(cursor, batch, with_unit_signals, tally)
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
    """Store new assignments and lock stored ones; `assignments` get their stored values.

    Return the masks of the new assignments, and of stored ones whose exposure has just arrived.
    """
    new, locked = np.zeros((2, len(assignments)), np.bool_)
    missing = batch.exposed  # assignments with feedback only are likely stored already
    while not (new | locked).all():  # a third time if another transaction stores some in between
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
            stored = await arrays(cursor, _LOCK_STAGED, _LOCKED)
            numbers = stored["number"]
            for name in ("place", "deadline_us", "exposed", "outcome", "reward"):
                assignments[name][numbers] = stored[name]
            assignments["counted"][numbers] = stored["exposed"]
            locked[numbers] = True
        missing = ~(new | locked)
    exposing = batch.exposed & ~assignments["exposed"]
    if exposing.any():
        exposed = await arrays(cursor, _EXPOSE_ASSIGNMENTS, _STORED)
        assignments["place"][_at(assignments, exposed, exposing)] = exposed["place"]
        assignments["exposed"][exposing] = True
    return new, exposing


def _at(assignments: Assignments, stored: NDArray[np.void], among: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the positions in `assignments` of the stored rows: most often all in `among`, in order."""
    numbers = np.flatnonzero(among)
    if np.array_equal(assignments["id"][numbers], stored["id"]):
        return numbers
    position = dict(zip(assignments["id"][numbers].tolist(), numbers.tolist(), strict=True))
    return np.array([position[assignment_id] for assignment_id in stored["id"].tolist()], np.intp)


async def _log_signals(
    cursor: AsyncCursor, batch: Batch, assignments: Assignments, tally: SignalTally
) -> bool:
    """Log signals by assignment id. Return whether each of them was new."""
    if not len(batch.given.signals):
        return True
    return await log_signals(cursor, batch.staged_signals(assignments), tally)


async def _log_unit_signals(
    cursor: AsyncCursor, batch: Batch, with_unit_signals: Sequence[int], tally: SignalTally
) -> Assignments:
    """Log signals by unit, and lock the assignments that these or earlier ones may now belong to."""
    if not batch.unit_signals.n and not with_unit_signals:
        return np.empty(0, ASSIGNMENT)
    if batch.unit_signals.n:
        await log_unit_signals(cursor, batch.unit_signals, tally)
    await cursor.execute(_AFFECT_BY_UNIT)
    return await lock_affected(cursor)


async def lock_affected(cursor: AsyncCursor) -> Assignments:
    """Lock the assignments in the table `affected`."""
    stored = await arrays(cursor, _LOCK_AFFECTED, _AFFECTED)
    affected = np.zeros(len(stored), ASSIGNMENT)
    for name, _ in _AFFECTED:
        affected[name] = stored[name]
    affected["counted"] = affected["exposed"]
    return affected


async def read_signals(
    cursor: AsyncCursor, owners: Integers, assignments: NDArray[np.void], known_names: Sequence[str] = ()
) -> Given:
    """Read the logged signals in time about assignments, numbered by their `owners`.

    `assignments` have the fields experiment_id, unit_hash, id, assigned_us, deadline_us and exposed.
    New names are appended to `known_names`.
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
    stored = await arrays(cursor, _READ_SIGNALS, _SIGNALS, {"tolerance_us": CLOCK_TOLERANCE_US})
    signal_names = [name.decode() for name in pieces(cursor, len(_SIGNALS), stored["name_length"])]
    names = list(dict.fromkeys([*known_names, *signal_names]))
    position = {name: number for number, name in enumerate(names)}
    signals = np.empty(len(stored), GIVEN)
    for name in ("owner", "source", "at_us", "value"):
        signals[name] = stored[name]
    signals["name"] = [position[name] for name in signal_names]
    return Given(undoubled(signals, stored["derived"].astype(np.bool_)), names)
