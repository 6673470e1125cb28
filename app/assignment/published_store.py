"""Published experiments in PostgreSQL, to refill Valkey and to load while Valkey is away."""

from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

from sqlalchemy import func, or_, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.access.model import AccessSnapshot
from app.access.store import AccessStore
from app.access.tables import access_changes
from app.assignment import limits, snapshot
from app.assignment.snapshot import PublishedExperiment
from app.assignment.tables import published_experiments
from app.experiments.tables import experiments, publications

_STORED: Final = published_experiments.c


class Fingerprint(NamedTuple):
    """State that changes with all that servers load. `missing` experiments are not stored yet."""

    missing: int
    experiments: int
    versions: int
    access: int


class StoredExperiment(NamedTuple):
    """One encoded published experiment."""

    id: int
    key: str
    version: int
    body: bytes


class PublishedStore:
    """SQL of `published_experiments`. Raises what SQLAlchemy raises."""

    def __init__(self, engine: AsyncEngine, access: AccessStore | None = None) -> None:
        self._engine = engine
        self._access = access

    async def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of the state, without reading the state."""
        stored = select(func.count(), func.coalesce(func.sum(_STORED.version), 0)).select_from(
            published_experiments
        )
        expected = select(func.count()).select_from(publications).scalar_subquery()
        revision = select(func.coalesce(func.max(access_changes.c.revision), 0)).scalar_subquery()
        async with self._engine.connect() as connection:
            row = (await connection.execute(stored.add_columns(expected, revision))).one()
        n_stored, versions, n_expected, access = (int(value) for value in row)
        return Fingerprint(n_expected - n_stored, n_stored, versions, access)

    async def versions(self) -> dict[str, int]:
        """Return the version of each stored experiment, by its key."""
        statement = select(experiments.c.key, _STORED.version).join_from(published_experiments, experiments)
        async with self._engine.connect() as connection:
            return {row.key: row.version for row in await connection.execute(statement)}

    async def bodies(self, keys: Sequence[str]) -> AsyncIterator[list[bytes]]:
        """Yield the stored experiments with these keys, encoded, a page at a time."""
        for start in range(0, len(keys), limits.PUBLISHED_PAGE_ROWS):
            some = list(keys[start : start + limits.PUBLISHED_PAGE_ROWS])
            statement = select(_STORED.body).join_from(published_experiments, experiments)
            async with self._engine.connect() as connection:
                rows = await connection.execute(statement.where(experiments.c.key.in_(some)))
                yield list(rows.scalars())

    async def access(self) -> AccessSnapshot | None:
        """Return API keys and signing keys in force."""
        return None if self._access is None else await self._access.snapshot()

    async def pages(self) -> AsyncIterator[list[StoredExperiment]]:
        """Yield all stored experiments in the order of their ids, a page at a time."""
        after = -1
        while True:
            statement = (
                select(_STORED.experiment_id, experiments.c.key, _STORED.version, _STORED.body)
                .join_from(published_experiments, experiments)
                .where(_STORED.experiment_id > after)
                .order_by(_STORED.experiment_id)
                .limit(limits.PUBLISHED_PAGE_ROWS)
            )
            async with self._engine.connect() as connection:
                page = [StoredExperiment(*row) for row in await connection.execute(statement)]
            if not page:
                return
            yield page
            after = page[-1].id

    async def not_stored(self) -> list[int]:
        """Return the ids of the experiments that are not stored, as after an upgrade."""
        stored = select(_STORED.experiment_id)
        statement = select(publications.c.experiment_id).where(publications.c.experiment_id.not_in(stored))
        async with self._engine.connect() as connection:
            rows = await connection.execute(statement.order_by(publications.c.experiment_id))
            return list(rows.scalars())


async def store_published(connection: AsyncConnection, published: PublishedExperiment) -> bytes:
    """Store what servers load of an experiment, in the caller's transaction, and return it encoded.

    The caller holds the experiment's row of `publications`, which orders such writes.
    """
    body = snapshot.encode(published)
    statement = postgresql.insert(published_experiments).values(
        experiment_id=published.id, version=published.version, body=body
    )
    fresh = statement.excluded
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[_STORED.experiment_id],
            set_={"version": fresh.version, "body": fresh.body},
            where=or_(_STORED.version != fresh.version, _STORED.body != fresh.body),
        )
    )
    return body
