"""The tables `metric_changes` and `backfills`: changes of what is measured, and their backfills.

A change excludes the transactions of the ledger for a moment: each of them measures either before
or after it. So the rows that a transaction writes are all of one layout.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from psycopg.errors import LockNotAvailable
from sqlalchemy import Row, func, insert, null, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core import locks
from app.core.errors import Unavailable
from app.experiments.metric_history import Backfill, MetricChange
from app.experiments.metrics import Metric
from app.experiments.model import Draft, Experiment
from app.experiments.plan import Segments
from app.experiments.reward import Reward
from app.experiments.tables import backfills, metric_changes

BEFORE_ALL: Final[dict[str, Any]] = {"unit_hash": -(2**63), "assignment_id": UUID(int=0)}
"""The position of a backfill that has measured nothing."""

_LOCK_TIMEOUT: Final = text("SET LOCAL lock_timeout = '5s'")
_NO_LOCK_TIMEOUT: Final = text("SET LOCAL lock_timeout = DEFAULT")


class Author(NamedTuple):
    """The person who changes an experiment, and the reason. `by` is None if no person is known."""

    by: str | None = None
    reason: str = ""
    reopens: bool = False


UNKNOWN: Final = Author()


class MetricChangesStore:
    """Reads the history of metrics. Each method is one transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def history(self, experiment_id: int) -> tuple[list[MetricChange], Backfill | None]:
        """Return the changes of an experiment, oldest first, and its latest backfill."""
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            changes = await read_changes(connection, experiment_id)
            return changes, await read_backfill(connection, experiment_id)


async def record_change(
    connection: AsyncConnection, before: Experiment, after: Experiment, author: Author, at: datetime
) -> None:
    """Record a change of what is measured or planned, and request its backfill.

    The caller has locked the experiment, and stores it next. Raises Unavailable if the ledger does
    not let the change in.
    """
    relaid = after.layouts.present != before.layouts.present
    replanned = after.planned != before.planned or after.definition.metrics != before.definition.metrics
    if isinstance(before.state, Draft) or not (relaid or replanned):
        return
    last = await connection.scalar(
        select(func.max(metric_changes.c.number)).where(metric_changes.c.experiment_id == before.id)
    )
    if last is None:
        started_at = getattr(before.state, "started_at", before.created_at)
        await _insert(connection, before, 1, UNKNOWN, started_at)
    await _insert(connection, after, (last or 1) + 1, author, at)
    if relaid:
        await _exclude_ledger(connection, before.id)
        row = {
            "done": 0,
            "expected": None,
            "started_at": at,
            "finished_at": None,
            "error": None,
            **BEFORE_ALL,
        }
        statement = postgresql.insert(backfills).values(experiment_id=before.id, **row)
        await connection.execute(
            statement.on_conflict_do_update(index_elements=[backfills.c.experiment_id], set_=row)
        )


async def read_changes(connection: AsyncConnection, experiment_id: int) -> list[MetricChange]:
    """Return the changes of an experiment, oldest first."""
    statement = select(metric_changes).where(metric_changes.c.experiment_id == experiment_id)
    rows = await connection.execute(statement.order_by(metric_changes.c.number))
    return [_change(row) for row in rows]


async def read_backfill(connection: AsyncConnection, experiment_id: int) -> Backfill | None:
    """Return the latest backfill of an experiment; None if there never was one."""
    statement = select(backfills).where(backfills.c.experiment_id == experiment_id)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _backfill(row)


async def _exclude_ledger(connection: AsyncConnection, experiment_id: int) -> None:
    """Wait until no ledger transaction measures the experiment, and keep new ones waiting."""
    members = locks.LAYOUT_NONE, locks.layout_group(experiment_id)
    try:
        await connection.execute(_LOCK_TIMEOUT)
        for member in members:
            await connection.execute(locks.member_lock(locks.LAYOUTS, member))
        await connection.execute(_NO_LOCK_TIMEOUT)
    except DBAPIError as error:
        if isinstance(error.orig, LockNotAvailable):
            raise Unavailable("totals of this experiment are being counted: try again in a minute") from error
        raise


async def _insert(
    connection: AsyncConnection, experiment: Experiment, number: int, author: Author, at: datetime
) -> None:
    definition = experiment.definition
    segments = definition.plan.segments
    row: dict[str, Any] = {
        "experiment_id": experiment.id,
        "number": number,
        "metrics": msgspec.to_builtins(definition.metrics),
        "segments": null() if segments is None else msgspec.to_builtins(segments),
        "reward": msgspec.to_builtins(definition.reward),
        "reopened": author.reopens,
        "by": author.by,
        "reason": author.reason,
        "at": at,
    }
    await connection.execute(insert(metric_changes).values(row))


def _change(row: Row[Any]) -> MetricChange:
    return MetricChange(
        number=row.number,
        at=row.at,
        by=row.by,
        reason=row.reason,
        reopened=row.reopened,
        metrics=msgspec.convert(row.metrics, tuple[Metric, ...]),
        segments=msgspec.convert(row.segments, Segments | None),
        reward=msgspec.convert(row.reward, Reward),
    )


def _backfill(row: Row[Any]) -> Backfill:
    share = min(row.done / row.expected, 0.999) if row.expected else 0.0
    return Backfill(
        share=1.0 if row.finished_at is not None else share,
        done=row.done,
        expected=row.expected,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=row.error,
    )
