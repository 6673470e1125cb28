"""Readings of reviews in PostgreSQL: progress, reviewers, ratings, and the rows of an export."""

from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from typing import Any, Final

from sqlalchemy import Row, TextClause, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.reviews import limits
from app.reviews.agreement import Rating
from app.reviews.model import Queue, Workload
from app.reviews.overview import QueueProgress, ReviewerProgress, SampledStratum
from app.reviews.tables import review_items, review_settings, review_strata, reviews

_FOLDER: Final = files(__package__)


def _sql(name: str) -> TextClause:
    return text(_FOLDER.joinpath(f"sql/{name}.sql").read_text())


_QUEUES: Final = _sql("queues")
_REVIEWERS: Final = _sql("reviewers")
_RATINGS: Final = _sql("ratings")
_WORKLOAD: Final = _sql("workload")
_EXPORT: Final = _sql("export")
_UNLABELLED: Final = _sql("unlabelled")


class ReadingStore:
    """SQL that reads reviews and changes nothing."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def queues(self, experiment_id: int) -> list[QueueProgress]:
        """Return the progress of each queue that has items."""
        rows = await self._rows(_QUEUES, experiment_id=experiment_id)
        return [QueueProgress(**row._asdict()) for row in rows]

    async def strata(self, experiment_id: int) -> list[SampledStratum]:
        """Return how many responses of each stratum were looked at and sampled."""
        columns = review_strata.c
        statement = (
            select(columns.variant, columns.segment, columns.responses, columns.sampled)
            .where(columns.experiment_id == experiment_id)
            .order_by(columns.variant, columns.segment)
        )
        async with self._engine.connect() as connection:
            return [SampledStratum(*row) for row in await connection.execute(statement)]

    async def reviewers(self, experiment_id: int) -> list[ReviewerProgress]:
        """Return what each reviewer has done, those with the most labels first."""
        rows = await self._rows(_REVIEWERS, experiment_id=experiment_id, rows_max=limits.REVIEWERS_SHOWN_MAX)
        return [ReviewerProgress(**row._asdict()) for row in rows]

    async def ratings(self, experiment_id: int, queue: Queue | None) -> list[Rating]:
        """Return the labels of the newest items with two or more, in the order of the items."""
        rows = await self._rows(
            _RATINGS,
            experiment_id=experiment_id,
            queue=queue,
            items_max=limits.REVIEW_AGREEMENT_ITEMS_MAX,
        )
        return [Rating(row.item_id, row.reviewer, row.label, row.unit_hash) for row in rows]

    async def workload(self, reviewer: str, key: str | None) -> list[Workload]:
        """Return the experiments in which a reviewer can do or has done something, by key."""
        rows = await self._rows(_WORKLOAD, reviewer=reviewer, key=key)
        return [Workload(experiment=row.key, open=row.open, answered=row.answered) for row in rows]

    async def last_answer(self, reviewer: str, experiment_id: int) -> int | None:
        """Return the item that a reviewer answered or corrected last; None without one."""
        statement = (
            select(reviews.c.item_id)
            .join(review_items, review_items.c.id == reviews.c.item_id)
            .where(reviews.c.reviewer == reviewer, review_items.c.experiment_id == experiment_id)
            .order_by(reviews.c.at.desc(), reviews.c.item_id.desc())
            .limit(1)
        )
        async with self._engine.connect() as connection:
            return await connection.scalar(statement)

    async def counts(self) -> dict[tuple[str, str], int]:
        """Return the number of items of all experiments by queue and state."""
        columns = review_items.c
        statement = select(columns.queue, columns.state, func.count()).group_by(columns.queue, columns.state)
        async with self._engine.connect() as connection:
            return {(queue, state): n for queue, state, n in await connection.execute(statement)}

    async def words(self, experiment_id: int) -> dict[int, dict[int, str]]:
        """Return the words of the labels of each revision of the settings."""
        statement = select(review_settings.c.revision, review_settings.c.labels).where(
            review_settings.c.experiment_id == experiment_id
        )
        async with self._engine.connect() as connection:
            rows = await connection.execute(statement)
            return {row.revision: {int(digit): word for digit, word in row.labels.items()} for row in rows}

    async def answers(self, experiment_id: int, *, revisions: bool) -> AsyncIterator[Sequence[Row[Any]]]:
        """Yield the answers of an experiment with their items, page by page, in the order of items.

        Without `revisions`, only the newest answer of each reviewer.
        """
        after = 0
        while True:
            rows = await self._rows(
                _EXPORT,
                experiment_id=experiment_id,
                after=after,
                revisions=revisions,
                items_max=limits.REVIEW_EXPORT_ITEMS,
            )
            if not rows:
                return
            after = rows[-1].id
            yield rows

    async def unlabelled(self, experiment_id: int) -> AsyncIterator[Sequence[Row[Any]]]:
        """Yield the items that still want a label, page by page, in the order of claims."""
        after: int | None = None
        while True:
            rows = await self._rows(
                _UNLABELLED,
                experiment_id=experiment_id,
                after=after,
                items_max=limits.REVIEW_EXPORT_ITEMS,
            )
            if not rows:
                return
            after = rows[-1].rank
            yield rows

    async def _rows(self, statement: TextClause, **parameters: Any) -> Sequence[Row[Any]]:
        async with self._engine.connect() as connection:
            return (await connection.execute(statement, parameters)).all()
