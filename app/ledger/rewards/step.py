"""The step that recomputes rewards from signals and stores them with their assignments."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncCursor

from app.ledger import rows
from app.ledger.log.step import Logged, read_signals
from app.ledger.rewards.model import Assignments, Given, Rule, resolve
from app.ledger.session import copy, sql

_STORE_REWARDS: Final = sql(__package__, "store_rewards")


async def resolve_rewards(
    cursor: AsyncCursor,
    logged: Logged,
    unread: NDArray[np.bool_],
    rules: Mapping[int, Rule],
    *,
    silent_until_us: float,
) -> tuple[Assignments, Given]:
    """Return the assignments with their new rewards, and the signals about them.

    Signals of the `unread` assignments are read from the log; the batch has those of all others.
    """
    given = logged.given
    unread = logged.resolving & unread
    if unread.any():
        owners = np.flatnonzero(unread)
        stored = await read_signals(cursor, owners, logged.assignments[owners], given.names)
        in_batch = given.signals[~unread[given.signals["owner"]]]
        given = Given(np.concatenate([in_batch, stored.signals]), stored.names)
    resolved = resolve(logged.assignments, given, rules, silent_until_us=silent_until_us)
    return np.where(logged.resolving, resolved, logged.assignments), given


async def store_rewards(cursor: AsyncCursor, changed: Assignments, overdue: Assignments) -> None:
    """Store the outcomes and rewards of `changed` assignments, and leave `overdue` ones to the sweep."""
    if len(changed):
        staged = rows.rows(
            len(changed),
            place=("V6", changed["place"]),
            outcome=(">i2", changed["outcome"]),
            reward=(">i4", changed["reward"]),
        )
        await copy(cursor, "staged_rewards", staged)
        await cursor.execute(_STORE_REWARDS)
    keys = rows.rows(
        len(overdue),
        experiment_id=(">i4", overdue["experiment_id"]),
        unit_hash=(">i8", overdue["unit_hash"]),
        id=("S16", overdue["id"]),
    )
    await copy(cursor, "overdue_assignments", keys)
