"""Review settings, items and labels in PostgreSQL."""

from collections.abc import Collection, Iterable
from datetime import datetime
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Row, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.experiments.tables import experiments
from app.responses.store import hold
from app.reviews.model import Candidate, Label, Queue, ReviewSettings, StoredSettings
from app.reviews.sampling import rank
from app.reviews.tables import review_items, review_settings

_LABELS: Final = text(files(__package__).joinpath("sql/labels.sql").read_text())


class ReviewStore:
    """SQL of settings and labels. Each method is one transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def settings(self, experiment_id: int) -> StoredSettings | None:
        """Return the settings in force; None before the first."""
        async with self._engine.connect() as connection:
            return await newest_settings(connection, experiment_id)

    async def put_settings(
        self, experiment_id: int, settings: ReviewSettings, at: datetime
    ) -> StoredSettings:
        """Store settings as the next revision, unless they are in force already; return them.

        Changes of one experiment take turns.
        """
        async with self._engine.begin() as connection:
            await _lock_experiment(connection, experiment_id)
            before = await newest_settings(connection, experiment_id)
            if before is not None and _plain(before) == settings:
                return before
            revision = 1 if before is None else before.revision + 1
            return await insert_settings(connection, experiment_id, settings, revision, at)

    async def label_sets(self, experiment_id: int) -> list[frozenset[int]]:
        """Return the sets of digits under which items of an experiment have answers."""
        statement = (
            select(review_settings.c.labels)
            .join(
                review_items,
                (review_items.c.experiment_id == review_settings.c.experiment_id)
                & (review_items.c.revision == review_settings.c.revision),
            )
            .where(review_settings.c.experiment_id == experiment_id, review_items.c.answers > 0)
            .distinct()
        )
        async with self._engine.connect() as connection:
            rows = await connection.execute(statement)
            return list({frozenset(map(int, row.labels)) for row in rows})

    async def labels(self, experiment_id: int) -> list[Label]:
        """Return the items of an experiment that have a label, in the order of their ids.

        Only those of the queue `sample` may enter estimates.
        """
        async with self._engine.connect() as connection:
            rows = await connection.execute(_LABELS, {"experiment_id": experiment_id})
            return [_label(row) for row in rows]


async def newest_settings(connection: AsyncConnection, experiment_id: int) -> StoredSettings | None:
    """Return the settings in force; None before the first."""
    statement = (
        select(review_settings)
        .where(review_settings.c.experiment_id == experiment_id)
        .order_by(review_settings.c.revision.desc())
        .limit(1)
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else settings_of(row)


async def insert_settings(
    connection: AsyncConnection, experiment_id: int, settings: ReviewSettings, revision: int, at: datetime
) -> StoredSettings:
    """Store a revision of the settings of a locked experiment, and return it."""
    row = {
        **msgspec.structs.asdict(settings),
        "labels": {str(label): word for label, word in sorted(settings.labels.items())},
        "experiment_id": experiment_id,
        "revision": revision,
        "created_at": at,
    }
    await connection.execute(review_settings.insert().values(row))
    return StoredSettings(**msgspec.structs.asdict(settings), revision=revision, created_at=at)


async def insert_items(
    connection: AsyncConnection, queue: Queue, candidates: Iterable[Candidate], at: datetime
) -> list[UUID]:
    """Store items that are not in the queue yet, and return the keys of their responses.

    Responses that are not stored, or have expired, are left out; the others are kept while their
    items are open. A disagreement about a response of the sample adds nothing, because the sample's
    review shows it. An experiment without settings gets the default ones, without a sample.
    """
    inserted: list[UUID] = []
    for experiment_id, group in _by_experiment(candidates).items():
        settings = await _ensured_settings(connection, experiment_id, at)
        salt = await connection.scalar(select(experiments.c.salt).where(experiments.c.id == experiment_id))
        assert salt is not None
        fresh = await _fresh(connection, queue, group)
        held = await hold(connection, fresh, holder_of(queue))
        rows = [_row(fresh[key], queue, settings, salt, at) for key in fresh if key in held]
        if rows:
            statement = (
                postgresql.insert(review_items)
                .values(rows)
                .on_conflict_do_nothing(index_elements=[review_items.c.response_key, review_items.c.queue])
                .returning(review_items.c.response_key)
            )
            inserted += (await connection.execute(statement)).scalars()
    return inserted


async def items_by_response(
    connection: AsyncConnection, experiment_id: int, keys: Collection[UUID]
) -> dict[UUID, int]:
    """Return the item of each response that has one: that of the sample before all others."""
    columns = review_items.c
    statement = (
        select(columns.response_key, columns.id)
        .where(columns.experiment_id == experiment_id, columns.response_key.in_(keys))
        .order_by(columns.queue == Queue.SAMPLE, columns.queue == Queue.DISAGREEMENT)
    )
    return {row.response_key: row.id for row in await connection.execute(statement)}


def holder_of(queue: Queue) -> str:
    """Return the name under which the items of a queue keep their responses from expiring."""
    return f"reviews {queue}"


def settings_of(row: Row[Any]) -> StoredSettings:
    """Return the settings in a row of their table."""
    return StoredSettings(
        rate=row.rate,
        rubric=row.rubric,
        labels={int(label): word for label, word in sorted(row.labels.items())},
        reviewers=row.reviewers,
        lease_s=row.lease_s,
        revision=row.revision,
        created_at=row.created_at,
    )


async def _lock_experiment(connection: AsyncConnection, experiment_id: int) -> None:
    """Make changes of an experiment's settings take turns. Foreign keys to it do not wait."""
    statement = select(experiments.c.id).where(experiments.c.id == experiment_id)
    await connection.execute(statement.with_for_update(key_share=True))


async def _ensured_settings(connection: AsyncConnection, experiment_id: int, at: datetime) -> StoredSettings:
    settings = await newest_settings(connection, experiment_id)
    if settings is None:
        await _lock_experiment(connection, experiment_id)
        settings = await newest_settings(connection, experiment_id) or await insert_settings(
            connection, experiment_id, ReviewSettings(rate=0.0), 1, at
        )
    return settings


async def _fresh(
    connection: AsyncConnection, queue: Queue, candidates: Iterable[Candidate]
) -> dict[UUID, Candidate]:
    """Return the candidates by key that are neither in the queue nor in the sample."""
    by_key = {candidate.response_key: candidate for candidate in candidates}
    statement = select(review_items.c.response_key).where(
        review_items.c.queue.in_({queue, Queue.SAMPLE}), review_items.c.response_key.in_(by_key)
    )
    for key in (await connection.execute(statement)).scalars():
        by_key.pop(key, None)
    return by_key


def _by_experiment(candidates: Iterable[Candidate]) -> dict[int, list[Candidate]]:
    groups: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.experiment_id, []).append(candidate)
    return groups


def _row(
    candidate: Candidate, queue: Queue, settings: StoredSettings, salt: bytes, at: datetime
) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(candidate),
        "queue": queue,
        "rank": rank(salt, candidate.response_key),
        "revision": settings.revision,
        "wanted": settings.reviewers,
        "created_at": at,
        "changed_at": at,
    }


def _plain(stored: StoredSettings) -> ReviewSettings:
    return ReviewSettings(**{name: getattr(stored, name) for name in ReviewSettings.__struct_fields__})


def _label(row: Row[Any]) -> Label:
    digits = [int(digit) for digit in row.labels]
    low, high = min(digits), max(digits)
    return Label(
        response_key=row.response_key,
        epoch=row.epoch,
        variant=row.variant,
        segment=row.segment,
        assignment=row.assignment,
        unit_hash=row.unit_hash,
        queue=Queue(row.queue),
        inclusion_probability=row.inclusion_probability,
        label=row.label,
        score=(row.label - low) / (high - low),
        n_reviewers=row.n_reviewers,
        complete=row.labelled >= row.wanted,
        at=row.at,
    )
