"""Logged assignments with all signals about them, page by page."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np
from sqlalchemy import Row as SqlRow
from sqlalchemy import Select, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.analysis import limits
from app.experiments.model import Experiment
from app.ledger.log.step import read_signals
from app.ledger.rewards.model import ASSIGNMENT, NONE, Assignments, Given
from app.ledger.tables import assignments, horizons

_FOLDER: Final = files(__package__)
_CONTEXT_KINDS: Final = text(_FOLDER.joinpath("sql/context_kinds.sql").read_text())
_UNREAD: Final = text(_FOLDER.joinpath("sql/unread.sql").read_text())
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class LogPage(NamedTuple):
    """Exposed assignments as rows and as an array, and the signals in time about them.

    Deadlines up to `swept_us` have passed.
    """

    rows: list[SqlRow[Any]]
    assignments: Assignments
    given: Given
    swept_us: float


class LogStore:
    """Reads the log of assignments and signals."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def pages(
        self,
        experiment: Experiment,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        rows_max: int | None = None,
    ) -> AsyncIterator[LogPage]:
        """Yield pages in the order of (hash of the unit, id); each page is of its moment.

        Hashes are keyed, so the first `rows_max` assignments are those of a random part of the
        units. Between two pages no connection is held, because a client may read slowly.
        """
        statement = _logged(experiment.id, since, until)
        last: tuple[int, UUID] | None = None
        n_read = 0
        while True:
            size = (
                limits.EXPORT_PAGE_ROWS
                if rows_max is None
                else min(limits.EXPORT_PAGE_ROWS, rows_max - n_read)
            )
            page = statement.limit(size)
            if last is not None:
                page = page.where(tuple_(assignments.c.unit_hash, assignments.c.id) > tuple_(*last))
            async with self._engine.connect() as connection:
                read = await _page(connection, page, experiment.id)
            yield read
            n_read += len(read.rows)
            if len(read.rows) < size or n_read == rows_max:
                return
            last = read.rows[-1].unit_hash, read.rows[-1].id

    async def context_kinds(self, experiment: Experiment) -> dict[str, list[str]]:
        """Return the keys of contexts, and the JSON types of their values.

        It reads the first `EXPORT_SAMPLE_ROWS` assignments, and at most `EXPORT_CONTEXTS_MAX` keys.
        """
        parameters = {
            "experiment_id": experiment.id,
            "rows_max": limits.EXPORT_SAMPLE_ROWS,
            "keys_max": limits.EXPORT_CONTEXTS_MAX,
        }
        async with self._engine.connect() as connection:
            rows = await connection.execute(_CONTEXT_KINDS, parameters)
            return {row.key: list(row.kinds) for row in rows}


def _logged(experiment_id: int, since: datetime | None, until: datetime | None) -> Select[Any]:
    log = assignments.c
    columns = (
        "unit_hash", "id", "unit", "variant", "propensity", "policy_version", "epoch", "assigned_at",
        "deadline", "outcome", "reward", "context",
    )  # fmt: skip
    statement = (
        select(*(log[name] for name in columns))
        .where(log.experiment_id == experiment_id, log.exposed)
        .order_by(log.unit_hash, log.id)
    )
    if since is not None:
        statement = statement.where(log.assigned_at >= since)
    if until is not None:
        statement = statement.where(log.assigned_at < until)
    return statement


async def _page(connection: AsyncConnection, statement: Select[Any], experiment_id: int) -> LogPage:
    rows = list((await connection.execute(statement)).all())
    swept = await connection.scalar(select(horizons.c.swept_until).where(horizons.c.swept_until > _EPOCH))
    page = _as_array(rows, experiment_id)
    await connection.execute(_UNREAD)
    # The planner must look up the signals of a page one by one, whatever it assumes about sizes.
    await connection.execute(text("SET LOCAL enable_hashjoin = off"))
    await connection.execute(text("SET LOCAL enable_mergejoin = off"))
    await connection.execute(text("SET LOCAL enable_seqscan = off"))
    raw = await connection.get_raw_connection()
    session: Any = raw.driver_connection
    async with session.cursor() as cursor:
        given = await read_signals(cursor, np.arange(len(rows)), page)
    swept_us = -np.inf if swept is None else _us(swept)
    return LogPage(rows, page, given, swept_us)


def _as_array(rows: list[SqlRow[Any]], experiment_id: int) -> Assignments:
    page = np.zeros(len(rows), ASSIGNMENT)
    if not rows:
        return page
    page["experiment_id"] = experiment_id
    page["unit_hash"] = [row.unit_hash for row in rows]
    page["id"] = [row.id.bytes for row in rows]
    page["assigned_us"] = [_us(row.assigned_at) for row in rows]
    page["deadline_us"] = [_us(row.deadline) for row in rows]
    page["epoch"] = [row.epoch for row in rows]
    page["variant"] = [row.variant for row in rows]
    page["propensity"] = [row.propensity for row in rows]
    page["outcome"] = [row.outcome for row in rows]
    page["reward"] = [NONE if row.reward is None else row.reward for row in rows]
    page["exposed"] = page["counted"] = True
    return page


def _us(at: datetime) -> int:
    seconds = at - _EPOCH
    return (seconds.days * 86_400 + seconds.seconds) * 1_000_000 + seconds.microseconds
