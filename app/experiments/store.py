"""Storage of experiments in PostgreSQL: definitions, epochs, and due publications."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, func, insert, null, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core import locks
from app.core.clock import Clock
from app.core.errors import Conflict, NotFound
from app.experiments import limits
from app.experiments.checks import unknown
from app.experiments.layouts import Layout, Layouts
from app.experiments.lifecycle import check_layer, opens_epoch
from app.experiments.metric_history import check_readers
from app.experiments.metric_history_store import UNKNOWN, Author, MetricChangesStore, record_change
from app.experiments.metrics import Metric
from app.experiments.model import Definition, Draft, Experiment, Running, State
from app.experiments.publication_store import request_publication
from app.experiments.tables import epochs, experiments

_state_kind = experiments.c.state["kind"].astext


Readers = Callable[[AsyncConnection, int], Awaitable[Mapping[str, str]]]
"""A function that names the rollout that reads each metric of an experiment, from a room above this one."""


async def no_readers(_connection: AsyncConnection, _experiment_id: int) -> Mapping[str, str]:
    """Return no readers, for a server without rollouts."""
    return {}


class ExperimentStore:
    """SQL of experiments. Each method is one transaction."""

    def __init__(self, engine: AsyncEngine, readers: Readers = no_readers) -> None:
        self._engine = engine
        self._readers = readers
        self.metric_changes = MetricChangesStore(engine)

    async def insert(self, definition: Definition, *, salt: bytes, at: datetime) -> Experiment:
        """Insert a draft.

        Raises Conflict if its key is taken, or there are `EXPERIMENTS_MAX` already.
        """
        async with self._engine.begin() as connection:
            await connection.execute(locks.transaction_lock(locks.EXPERIMENT_CREATION))
            present = select(func.count()).where(_state_kind != "archived")
            if (await connection.execute(present)).scalar_one() >= limits.EXPERIMENTS_MAX:
                raise Conflict(f"there are {limits.EXPERIMENTS_MAX} experiments already: archive some first")
            statement = (
                postgresql.insert(experiments)
                .values(
                    key=definition.key,
                    definition=msgspec.to_builtins(definition),
                    reads_silence=definition.reads_silence,
                    state=msgspec.to_builtins(Draft()),
                    salt=salt,
                    created_at=at,
                    updated_at=at,
                )
                .on_conflict_do_nothing(index_elements=[experiments.c.key])
                .returning(experiments)
            )
            row = (await connection.execute(statement)).one_or_none()
            if row is None:
                raise Conflict(f"an experiment is called {definition.key!r} already", field="key")
            await request_publication(connection, row.id)
            return experiment_of(row)

    async def find(self, key: str) -> Experiment:
        """Return the experiment with this key. Raises NotFound."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(experiments).where(experiments.c.key == key))
            row = rows.one_or_none()
            if row is None:
                raise await _unknown(connection, key)
            return experiment_of(row)

    async def page(self, *, state: str | None, after: str | None, limit: int) -> list[Experiment]:
        """Return at most `limit` experiments by key; without `state`, all but archived ones."""
        statement = select(experiments).order_by(experiments.c.key).limit(limit)
        statement = statement.where(_state_kind != "archived" if state is None else _state_kind == state)
        if after is not None:
            statement = statement.where(experiments.c.key > after)
        async with self._engine.connect() as connection:
            return [experiment_of(row) for row in await connection.execute(statement)]

    async def update(
        self,
        key: str,
        change: Callable[[Experiment, datetime], Experiment],
        clock: Clock,
        author: Author = UNKNOWN,
    ) -> tuple[Experiment, bool]:
        """Apply `change` under the row's lock; the result, and whether anything was written.

        A change of metrics is recorded with its `author`. It is refused while a rollout reads a
        metric that it removes.

        What starts in a layer starts alone, and only where its range is free: else raises Conflict.

        Nothing is written when `change` returns the object it was given. Raises NotFound, and what
        it raises.
        """
        async with self._engine.begin() as connection:
            before = await lock(connection, experiments.c.key == key)
            if before is None:
                raise await _unknown(connection, key)
            at = clock.now()
            changed = change(before, at)
            if changed is before:
                return before, False
            if isinstance(before.state, Draft) and isinstance(changed.state, Running):
                await _check_layer(connection, changed)
            if changed.definition.metrics != before.definition.metrics:
                check_readers(before, changed, await self._readers(connection, before.id))
            await record_change(connection, before, changed, author, at)
            return await store(connection, before, changed, at), True

    async def holders(self, layer: str) -> list[Experiment]:
        """Return the experiments that hold a range of a layer, by key."""
        async with self._engine.connect() as connection:
            return await _holders(connection, layer)


async def _check_layer(connection: AsyncConnection, experiment: Experiment) -> None:
    """Serialise starts in a layer, or two could take the same range at once."""
    layer = experiment.definition.layer
    if layer is None:
        return
    await connection.execute(locks.transaction_lock(locks.LAYER, layer.key))
    check_layer(experiment, await _holders(connection, layer.key))


async def _holders(connection: AsyncConnection, layer: str) -> list[Experiment]:
    """Select the experiments that are running or paused."""
    in_layer = experiments.c.definition[("layer", "key")].as_string() == layer
    chosen = select(experiments).where(in_layer, _state_kind.in_(("running", "paused")))
    rows = await connection.execute(chosen.order_by(experiments.c.key))
    return [experiment_of(row) for row in rows]


async def lock(connection: AsyncConnection, chosen: ColumnElement[bool]) -> Experiment | None:
    """Return the experiment, locked until the end of the transaction.

    FOR NO KEY UPDATE: does not stand against the foreign keys of allocations, whose writer holds
    the lock on `publications` that a change takes after this one.
    """
    row = await connection.execute(select(experiments).where(chosen).with_for_update(key_share=True))
    experiment_row = row.one_or_none()
    return None if experiment_row is None else experiment_of(experiment_row)


async def store(
    connection: AsyncConnection, before: Experiment, changed: Experiment, at: datetime
) -> Experiment:
    """Store a changed experiment that is locked, its new epoch if any, and request its publication."""
    after = msgspec.structs.replace(changed, revision=before.revision + 1, updated_at=at)
    await connection.execute(
        update(experiments)
        .where(experiments.c.id == before.id)
        .values(
            definition=msgspec.to_builtins(after.definition),
            reads_silence=after.definition.reads_silence,
            state=msgspec.to_builtins(after.state),
            held=after.held,
            killed=after.killed,
            epoch=after.epoch,
            control_epoch=after.control_epoch,
            layout=after.layouts.present,
            earlier_layouts=msgspec.to_builtins(after.layouts.earlier),
            planned=null() if after.planned is None else msgspec.to_builtins(after.planned),
            revision=after.revision,
            updated_at=at,
        )
    )
    if opens_epoch(before, after):
        row = {
            "experiment_id": after.id,
            "epoch": after.epoch,
            "policy": msgspec.to_builtins(after.definition.policy),
            "control": after.definition.control_key,
            "n_variants": len(after.definition.variants),
            "started_at": at,
        }
        await connection.execute(insert(epochs).values(row))
    await request_publication(connection, after.id)
    return after


def experiment_of(row: Row[Any]) -> Experiment:
    """Return the experiment of a row that holds all columns of `experiments`."""
    return Experiment(
        id=row.id,
        definition=msgspec.convert(row.definition, Definition),
        state=msgspec.convert(row.state, State),
        salt=row.salt,
        epoch=row.epoch,
        revision=row.revision,
        created_at=row.created_at,
        updated_at=row.updated_at,
        held=row.held,
        killed=row.killed,
        control_epoch=row.control_epoch,
        layouts=Layouts(row.layout, msgspec.convert(row.earlier_layouts, tuple[Layout, ...])),
        planned=None if row.planned is None else msgspec.convert(row.planned, tuple[Metric, ...]),
    )


async def _unknown(connection: AsyncConnection, key: str) -> NotFound:
    """Return the error for a key that no experiment has, with the nearest key that one has."""
    keys = select(experiments.c.key).order_by(experiments.c.id.desc()).limit(limits.KEYS_COMPARED_MAX)
    return unknown(key, known=(await connection.scalars(keys)).all())
