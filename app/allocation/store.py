"""Storage of allocation: totals and history in PostgreSQL, what servers load in Valkey."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from enum import IntEnum
from importlib.resources import files
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from sqlalchemy import Row, Select, func, insert, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.allocation import limits
from app.allocation.forgetting import Learned, first_part
from app.allocation.freeze_store import Held, read_freezes, read_held
from app.allocation.freezes import Freeze
from app.allocation.metrics import Moments, moments_of_cells
from app.allocation.model import Allocated, AllocationPoint, VariantTotals
from app.allocation.tables import allocations, warm_starts
from app.assignment import snapshot
from app.assignment.published_store import PublishedStore, StoredExperiment, store_published
from app.assignment.snapshot import PublishedExperiment
from app.assignment.store import REFILLED_ANNOUNCEMENT, WHOLE_KEY
from app.core.clock import Clock, SystemClock
from app.core.valkey import CHANGES_CHANNEL, registry_key, valkey_needed
from app.experiments.checks import possible, unknown
from app.experiments.model import Draft, Experiment
from app.experiments.policies import Policy
from app.experiments.publication_store import PublicationStore, lock_publication
from app.experiments.store import experiment_of
from app.experiments.tables import epochs, experiments
from app.ledger.learning.model import learning_of, plus
from app.ledger.tables import metric_totals, policy_totals, totals
from app.ledger.units.measures import CellTotals
from bandits.identification import Winner

_CLOCK: Final[Clock] = SystemClock()
_FOLDER: Final = files(__package__)
_PUBLISH_EXPERIMENT: Final = _FOLDER.joinpath("lua/publish_experiment.lua").read_text()
_MARK_WHOLE: Final = _FOLDER.joinpath("lua/mark_whole.lua").read_text()
_HISTORY: Final = text(_FOLDER.joinpath("sql/history.sql").read_text())
_THIN: Final = text(_FOLDER.joinpath("sql/thin.sql").read_text())
_EXPERIMENTS_KEY: Final = registry_key("experiments")
_VERSIONS_KEY: Final = registry_key("versions")
_REVISION_KEY: Final = registry_key("revision")
_FILLING_KEY: Final = registry_key("filling")


class Publication(IntEnum):
    """A result of `publish_experiment.lua`."""

    REFUSED = -1
    KEPT_NEWER = 0
    PUBLISHED = 1
    UNCHANGED = 2


class Due(msgspec.Struct, frozen=True):
    """An experiment whose publication row is locked, as of the totals committed before."""

    experiment: Experiment
    totals: tuple[VariantTotals, ...]
    learned: Learned  # empty: nothing but the totals
    earlier: tuple[VariantTotals, ...]  # what a warm start begins with; empty: there is none
    moments: Moments  # of other metrics; empty: the policy reads none
    latest: AllocationPoint | None
    wanted: int
    due_at: datetime | None
    held: Held | None  # None: the policy may learn


class AllocationStore:
    """SQL and Lua of allocation."""

    def __init__(self, engine: AsyncEngine, valkey: Redis) -> None:
        self._engine = engine
        self._valkey = valkey
        self._publish_experiment = valkey.register_script(_PUBLISH_EXPERIMENT)
        self._mark_whole = valkey.register_script(_MARK_WHOLE)
        self._published = PublishedStore(engine)
        self.publications = PublicationStore(engine)

    @asynccontextmanager
    async def locked(
        self, experiment_id: int, now_s: float
    ) -> AsyncIterator[tuple[AsyncConnection, Due | None]]:
        """Open a transaction in which no other process reallocates the experiment.

        Of what the policy has forgotten at `now_s`, in seconds since the Unix epoch, nothing is
        read.

        A transaction that changes totals or the definition requests a publication, and waits for
        this lock to do so: what is read here is exactly what `wanted` counts.
        """
        async with self._engine.begin() as connection:
            row = await lock_publication(connection, experiment_id)
            if row is None:
                yield connection, None
                return
            chosen = select(experiments).where(experiments.c.id == experiment_id)
            experiment = experiment_of((await connection.execute(chosen)).one())
            yield (
                connection,
                Due(
                    experiment,
                    await read_totals(connection, experiment),
                    await read_learned(connection, experiment, now_s),
                    await _keep_earlier(connection, experiment),
                    await _read_moments(connection, experiment),
                    await read_latest(connection, experiment_id),
                    *row,
                    await read_held(connection, experiment_id),
                ),
            )

    async def insert(
        self, connection: AsyncConnection, experiment: Experiment, version: int, allocated: Allocated
    ) -> None:
        """Insert a new version of the allocation."""
        await connection.execute(
            insert(allocations).values(
                experiment_id=experiment.id,
                version=version,
                epoch=experiment.epoch,
                weights=list(allocated.weights),
                contextual=allocated.digest,
                winner=None if allocated.winner is None else msgspec.to_builtins(allocated.winner),
                wanted=allocated.wanted,
                created_at=_CLOCK.now(),
            )
        )

    async def store_published(self, connection: AsyncConnection, published: PublishedExperiment) -> None:
        """Store what servers are going to load, before they are given it."""
        await store_published(connection, published)

    async def publish(self, published: PublishedExperiment, *, disowned: int = 0) -> Publication:
        """Give it to all servers, unless they were given a newer one.

        Raises Unavailable without Valkey.

        `disowned` is the version of a newer one that is to be replaced all the same.
        """
        body = snapshot.encode(published)
        with valkey_needed():
            answer = await self._publish_experiment(
                keys=[_EXPERIMENTS_KEY, _VERSIONS_KEY, _REVISION_KEY],
                args=[published.key, published.version, body, CHANGES_CHANNEL, disowned],
            )
        return Publication(answer)

    async def publish_page(self, page: Sequence[StoredExperiment]) -> list[int]:
        """Publish a page of stored experiments in one round trip, without announcements.

        Returns the ids of the experiments that have a newer version in Valkey. Raises Unavailable
        without Valkey.
        """
        with valkey_needed():
            async with self._valkey.pipeline(transaction=False) as pipeline:
                for stored in page:
                    await self._publish_experiment(
                        keys=[_EXPERIMENTS_KEY, _VERSIONS_KEY, _REVISION_KEY],
                        args=[stored.key, stored.version, stored.body, "", 0],
                        client=pipeline,
                    )
                answers = await pipeline.execute()
        pairs = zip(page, answers, strict=True)
        return [stored.id for stored, answer in pairs if answer == Publication.KEPT_NEWER]

    def stored_pages(self) -> AsyncIterator[list[StoredExperiment]]:
        """Yield every experiment as it was published last, a page at a time."""
        return self._published.pages()

    async def not_stored(self) -> list[int]:
        """Return the ids of the experiments whose published form is not stored yet."""
        return await self._published.not_stored()

    async def published_version(self, key: str) -> int:
        """Return the version that servers have; 0 if Valkey has none."""
        with valkey_needed():
            return int(await self._valkey.hget(_VERSIONS_KEY, key) or 0)

    async def newest_version(self, experiment_id: int) -> int:
        """Return the greatest version that can have been published from what is committed."""
        newest = func.max(allocations.c.version) + experiments.c.revision
        statement = select(newest).select_from(allocations).join(experiments).group_by(experiments.c.revision)
        statement = statement.where(experiments.c.id == experiment_id)
        async with self._engine.connect() as connection:
            return (await connection.execute(statement)).scalar_one_or_none() or 0

    async def find(self, key: str) -> int:
        """Return the id of the experiment with this key. Raises NotFound."""
        chosen = select(experiments.c.id).where(experiments.c.key == possible(key))
        async with self._engine.connect() as connection:
            experiment_id = await connection.scalar(chosen)
        if experiment_id is None:
            raise unknown(key)
        return int(experiment_id)

    async def freezes(self, experiment_id: int) -> list[Freeze]:
        """Return the freezes of an experiment, the newest first."""
        async with self._engine.connect() as connection:
            return await read_freezes(connection, experiment_id)

    async def begin_refill(self) -> str | None:
        """Claim to refill Valkey if it was emptied.

        Returns the token of the claim; None: nothing is missing.

        The mark is separate from the data because the next publication brings a part of those back.
        Raises Unavailable without Valkey.
        """
        token = secrets.token_hex(8)
        with valkey_needed():
            if await self._valkey.exists(WHOLE_KEY):
                return None
            await self._valkey.set(_FILLING_KEY, token)
        return token

    async def end_refill(self, token: str) -> bool:
        """Mark that everything is published.

        False: Valkey was emptied again, or another worker took over.

        Raises Unavailable without Valkey.
        """
        with valkey_needed():
            answer = await self._mark_whole(
                keys=[_FILLING_KEY, WHOLE_KEY, _REVISION_KEY],
                args=[token, CHANGES_CHANNEL, REFILLED_ANNOUNCEMENT],
            )
        return bool(answer)

    async def thin(self) -> int:
        """Thin versions older than `HISTORY_DENSE_S` to one a minute; return the row count."""
        parameters = {
            "now": _CLOCK.now(),
            "dense_s": limits.HISTORY_DENSE_S,
            "rows_max": limits.HISTORY_THIN_ROWS_MAX,
        }
        async with self._engine.begin() as connection:
            return (await connection.execute(_THIN, parameters)).rowcount


async def read_totals(connection: AsyncConnection, experiment: Experiment) -> tuple[VariantTotals, ...]:
    """Return the totals of the experiment's variants over all epochs, in their order."""
    names = VariantTotals.__struct_fields__
    sums = (func.sum(totals.c[name]) for name in names)  # of bigint: numeric, so they stay exact
    statement = (
        select(totals.c.variant, *sums)
        .where(totals.c.experiment_id == experiment.id)
        .group_by(totals.c.variant)
    )
    by_variant = {
        row.variant: VariantTotals(*(int(value) for value in row[1:]))
        for row in await connection.execute(statement)
    }
    return tuple(
        by_variant.get(index, VariantTotals()) for index in range(len(experiment.definition.variants))
    )


async def read_learned(connection: AsyncConnection, experiment: Experiment, now_s: float = 0.0) -> Learned:
    """Return what the policy has learned and not forgotten.

    It covers all epochs whose policies learned the same.

    Empty for policies that read the reward totals alone. `now_s` is read by policies that forget
    alone.
    """
    learning = learning_of(experiment.definition.policy)
    if learning is None:
        return {}
    forgetting = experiment.definition.policy.forgets
    same = await read_learned_epochs(connection, experiment)
    statement = select(policy_totals.c.part, policy_totals.c.variant, policy_totals.c.body).where(
        policy_totals.c.experiment_id == experiment.id,
        policy_totals.c.epoch.in_(same),
        policy_totals.c.body != b"",
    )
    nothing = [learning.empty] * len(experiment.definition.variants)
    learned = {"": nothing} if forgetting is None else {}
    if forgetting is not None:
        statement = statement.where(policy_totals.c.part >= first_part(forgetting, now_s))
    for row in await connection.execute(statement.order_by(policy_totals.c.epoch)):
        of_part = learned.setdefault(row.part, list(nothing))
        of_part[row.variant] = plus(of_part[row.variant], learning.decode(row.body))
    return learned


async def read_learned_epochs(connection: AsyncConnection, experiment: Experiment) -> list[int]:
    """Return the epochs whose policies learned the same as the policy in force.

    There are none if that policy learns nothing.
    """
    learning = learning_of(experiment.definition.policy)
    if learning is None:
        return []
    chosen = select(epochs.c.epoch, epochs.c.policy).where(epochs.c.experiment_id == experiment.id)
    return [
        row.epoch
        for row in await connection.execute(chosen.order_by(epochs.c.epoch))
        if learning_of(msgspec.convert(row.policy, Policy)) == learning
    ]


async def _read_moments(connection: AsyncConnection, experiment: Experiment) -> Moments:
    """Return the moments of other metrics over all epochs, if the policy reads any."""
    definition = experiment.definition
    if definition.policy.reads != "metrics":
        return {}
    statement = select(metric_totals.c.variant, metric_totals.c.body).where(
        metric_totals.c.experiment_id == experiment.id, metric_totals.c.body != b""
    )
    if definition.plan.crossovers == "exclude":
        statement = statement.where(~metric_totals.c.crossed)
    cells = [(row.variant, CellTotals.from_bytes(row.body)) for row in await connection.execute(statement)]
    return moments_of_cells(experiment, cells)


async def read_earlier(connection: AsyncConnection, experiment: Experiment) -> tuple[VariantTotals, ...]:
    """Return the totals of the policy's warm start, in the order of the variants, or nothing.

    Those that were kept, or where none are yet, those of now.
    """
    warm = experiment.definition.policy.starts_from
    if warm is None:
        return ()
    kept = select(warm_starts.c.totals).where(
        warm_starts.c.experiment_id == experiment.id, warm_starts.c.epoch == experiment.epoch
    )
    if (kept_totals := await connection.scalar(kept)) is not None:
        return msgspec.convert(kept_totals, tuple[VariantTotals, ...])
    chosen = select(experiments).where(experiments.c.key == warm.experiment)
    other = experiment_of((await connection.execute(chosen)).one())
    keys = [variant.key for variant in other.definition.variants]
    by_key = dict(zip(keys, await read_totals(connection, other), strict=True))
    return tuple(by_key.get(variant.key, VariantTotals()) for variant in experiment.definition.variants)


async def _keep_earlier(connection: AsyncConnection, experiment: Experiment) -> tuple[VariantTotals, ...]:
    """Return the totals of the warm start, and store them with the first allocation in force.

    The other experiment moves on; the prior stays.

    The warm start of a draft is still open.
    """
    earlier = await read_earlier(connection, experiment)
    if earlier and not isinstance(experiment.state, Draft):
        statement = postgresql.insert(warm_starts).values(
            experiment_id=experiment.id, epoch=experiment.epoch, totals=msgspec.to_builtins(earlier)
        )
        await connection.execute(statement.on_conflict_do_nothing())
    return earlier


async def read_latest(connection: AsyncConnection, experiment_id: int) -> AllocationPoint | None:
    """Return the allocation in force; None before the first."""
    row = (await connection.execute(_latest(experiment_id))).one_or_none()
    return None if row is None else _latest_point(row)


async def read_history(
    connection: AsyncConnection,
    experiment_id: int,
    points_max: int = limits.HISTORY_POINTS,
    *,
    until: datetime | None = None,
) -> list[AllocationPoint]:
    """Return at most `points_max` versions up to `until`, spread evenly over time."""
    parameters = {"experiment_id": experiment_id, "buckets": points_max - 1, "until": until}
    return [_point(row) for row in await connection.execute(_HISTORY, parameters)]


def _latest(experiment_id: int) -> Select[Any]:
    statement = select(allocations).where(allocations.c.experiment_id == experiment_id)
    return statement.order_by(allocations.c.version.desc()).limit(1)


def _point(row: Row[Any]) -> AllocationPoint:
    return AllocationPoint(row.version, row.epoch, row.created_at, tuple(row.weights))


def _latest_point(row: Row[Any]) -> AllocationPoint:
    winner = None if row.winner is None else msgspec.convert(row.winner, Winner)
    return AllocationPoint(
        row.version, row.epoch, row.created_at, tuple(row.weights), row.contextual, winner, row.wanted
    )
