"""The table `publications`: which experiments have to be allocated and published again.

A transaction that changes a definition or totals also requests a publication (`wanted` + 1).
Allocation computes it, and stores the `wanted` that it published. The row is also the lock of an
experiment's allocation: a request waits for it, so a reader that holds it sees exactly what
`wanted` counts.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

from psycopg import AsyncCursor
from sqlalchemy import func, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.experiments.tables import publications

_COLUMNS: Final = publications.c
_REQUEST: Final = """
    INSERT INTO publications (experiment_id)
    SELECT * FROM unnest(%s::integer[])
    ON CONFLICT (experiment_id) DO UPDATE SET wanted = publications.wanted + 1
"""


async def request_publications(cursor: AsyncCursor, experiment_ids: Sequence[int]) -> None:
    """Request a publication of each experiment.

    The ids ascend, so that two callers cannot deadlock.
    """
    if experiment_ids:
        await cursor.execute(_REQUEST, (experiment_ids,))


async def request_publication(connection: AsyncConnection, experiment_id: int) -> None:
    """Request a publication of an experiment."""
    statement = postgresql.insert(publications).values(experiment_id=experiment_id)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[_COLUMNS.experiment_id], set_={"wanted": _COLUMNS.wanted + 1}
        )
    )


async def lock_publication(
    connection: AsyncConnection, experiment_id: int
) -> tuple[int, datetime | None] | None:
    """Lock the experiment's row and return its `wanted` and `due_at`; None if there is no row."""
    statement = select(_COLUMNS.wanted, _COLUMNS.due_at).where(_COLUMNS.experiment_id == experiment_id)
    row = (await connection.execute(statement.with_for_update())).one_or_none()
    return None if row is None else (row.wanted, row.due_at)


async def set_due_at(connection: AsyncConnection, experiment_id: int, due_at: datetime | None) -> None:
    """Set when the passing of time makes the experiment due; None: it never does."""
    statement = update(publications).where(_COLUMNS.experiment_id == experiment_id)
    await connection.execute(statement.values(due_at=due_at))


class PublicationStore:
    """Publications as the loop of allocation needs them. Every method is one transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def due(self, limit: int) -> list[int]:
        """Return at most `limit` ids of experiments that have to be computed and published."""
        statement = (
            select(_COLUMNS.experiment_id)
            .where(_COLUMNS.published < _COLUMNS.wanted)
            .order_by(func.random())  # an experiment that cannot be published does not hold up the others
            .limit(limit)
        )
        async with self._engine.connect() as connection:
            return list((await connection.execute(statement)).scalars())

    async def request_overdue(self, now: datetime) -> None:
        """Request a publication of experiments whose allocation has changed with time by `now`.

        Rows that another transaction has locked are left for the next call.
        """
        overdue = select(_COLUMNS.experiment_id).where(_COLUMNS.due_at <= now)
        chosen = overdue.order_by(_COLUMNS.experiment_id).with_for_update(skip_locked=True)
        statement = update(publications).where(_COLUMNS.experiment_id.in_(chosen))
        async with self._engine.begin() as connection:
            await connection.execute(statement.values(wanted=_COLUMNS.wanted + 1, due_at=None))

    async def mark_published(self, experiment_id: int, wanted: int) -> None:
        """Store that everything up to `wanted` has been published."""
        statement = update(publications).where(_COLUMNS.experiment_id == experiment_id)
        async with self._engine.begin() as connection:
            await connection.execute(statement.values(published=func.greatest(_COLUMNS.published, wanted)))

    async def mark_unpublished(self, experiment_ids: Collection[int]) -> None:
        """Make these experiments due, whether or not they were published."""
        chosen = _COLUMNS.experiment_id.in_(list(experiment_ids))
        async with self._engine.begin() as connection:
            await connection.execute(update(publications).values(published=0).where(chosen))

    async def experiment_ids(self) -> list[int]:
        """Return the ids of all experiments."""
        async with self._engine.connect() as connection:
            statement = select(_COLUMNS.experiment_id).order_by(_COLUMNS.experiment_id)
            return list((await connection.execute(statement)).scalars())
