"""Rollouts in PostgreSQL. Decision, receipt, shares and webhook are written together or not at all."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from importlib.resources import files
from typing import Any, Final

import msgspec
from sqlalchemy import DateTime, Row, Select, cast, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, array
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.analysis.store import read_observed
from app.analysis.stored import StoredTotals
from app.core.errors import NotFound
from app.experiments import store as experiment_store
from app.experiments.checks import possible, unknown
from app.experiments.model import Experiment
from app.experiments.tables import epochs, experiments
from app.rollouts import limits
from app.rollouts.life import Looked, Rollout, Taken
from app.rollouts.lineage import Completion, ControlSince
from app.rollouts.model import Completed, Draft, RolledBack, RolloutPlan, State
from app.rollouts.receipt import Receipt
from app.rollouts.tables import rollout_decisions, rollouts
from app.webhooks.outbox import WebhookOutbox

_EXAMPLES: Final = text(files(__package__).joinpath("sql/examples.sql").read_text())
_ENDED_AT = cast(rollouts.c.state["ended_at"].astext, DateTime(timezone=True))
_ACTIVE = rollouts.c.state["kind"].astext.in_(("running", "paused"))
_UNENDED = rollouts.c.state["kind"].astext.in_(("draft", "running", "paused"))


class Locked(msgspec.Struct, frozen=True):
    """A rollout that is locked until the end of the transaction, and its experiment."""

    connection: AsyncConnection
    rollout: Rollout
    experiment: Experiment


class RolloutStore:
    """Reads and writes rollouts."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._outbox = WebhookOutbox()

    async def active(self) -> list[int]:
        """Return the ids of rollouts under way."""
        async with self._engine.connect() as connection:
            return list(
                await connection.scalars(select(rollouts.c.id).where(_ACTIVE).order_by(rollouts.c.id))
            )

    async def page(self, *, experiment: str | None, after: int | None, limit: int) -> list[Rollout]:
        """Return at most `limit` rollouts with ids below `after`, newest first, of one or all experiments."""
        statement = _joined().order_by(rollouts.c.id.desc()).limit(limit)
        if experiment is not None:
            statement = statement.where(experiments.c.key == experiment)
        if after is not None:
            statement = statement.where(rollouts.c.id < after)
        async with self._engine.connect() as connection:
            return [_rollout(row) for row in await connection.execute(statement)]

    async def find(self, rollout_id: int) -> Rollout:
        """Return the rollout of this id. Raises NotFound."""
        _check_possible(rollout_id)
        async with self._engine.connect() as connection:
            row = (await connection.execute(_joined().where(rollouts.c.id == rollout_id))).one_or_none()
        if row is None:
            raise NotFound(f"no rollout has the id {rollout_id}")
        return _rollout(row)

    async def decisions(self, rollout_id: int) -> list[Taken]:
        """Return all decisions of a rollout, oldest first, without their receipts."""
        statement = select(rollout_decisions).where(rollout_decisions.c.rollout_id == rollout_id)
        async with self._engine.connect() as connection:
            return [_taken(row) for row in await connection.execute(statement.order_by("number"))]

    async def decision(self, rollout_id: int, number: int) -> tuple[Taken, Receipt | None]:
        """Return a decision with its receipt. Raises NotFound."""
        _check_possible(rollout_id)
        if not 1 <= number <= limits.ROLLOUT_ID_MAX:
            raise NotFound(f"rollout {rollout_id} has no decision {number}")
        statement = select(rollout_decisions).where(
            rollout_decisions.c.rollout_id == rollout_id, rollout_decisions.c.number == number
        )
        async with self._engine.connect() as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise NotFound(f"rollout {rollout_id} has no decision {number}")
        return _taken(row), None if row.receipt is None else msgspec.convert(row.receipt, Receipt)

    async def completions(self, key: str) -> tuple[Experiment, list[Completion], list[ControlSince]]:
        """Return an experiment, the decisions that completed its rollouts, and the controls of its epochs.

        Both are in the order of time. Raises NotFound.
        """
        chosen = select(experiments).where(experiments.c.key == possible(key))
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            row = (await connection.execute(chosen)).one_or_none()
            if row is None:
                raise unknown(key)
            statement = (
                select(rollout_decisions, rollouts.c.state)
                .join(rollouts, rollouts.c.id == rollout_decisions.c.rollout_id)
                .where(
                    rollouts.c.experiment_id == row.id,
                    rollout_decisions.c.decision["kind"].as_string() == "complete",
                )
                .order_by(rollout_decisions.c.at, rollouts.c.id)
            )
            completions = [
                Completion(
                    decided.rollout_id, msgspec.convert(decided.state, Completed).canaries, _taken(decided)
                )
                for decided in await connection.execute(statement)
            ]
            of_epochs = select(epochs.c.control, epochs.c.started_at).where(
                epochs.c.experiment_id == row.id, epochs.c.control.is_not(None)
            )
            rows = await connection.execute(of_epochs.order_by(epochs.c.epoch))
            return experiment_store.experiment_of(row), completions, [ControlSince(*epoch) for epoch in rows]

    @asynccontextmanager
    async def begun(self, key: str) -> AsyncIterator[tuple[AsyncConnection, Experiment]]:
        """Open a transaction that may begin a rollout of this experiment. Raises NotFound."""
        async with self._engine.begin() as connection:
            experiment = await experiment_store.lock(connection, experiments.c.key == key)
            if experiment is None:
                raise unknown(key, "experiment")
            yield connection, experiment

    async def has_active(self, connection: AsyncConnection, experiment: Experiment) -> bool:
        """Return whether a locked experiment has a rollout under way."""
        active = select(rollouts.c.id).where(rollouts.c.experiment_id == experiment.id, _ACTIVE)
        return await connection.scalar(active.limit(1)) is not None

    async def ended(
        self, connection: AsyncConnection, experiment: Experiment, canaries: Sequence[str]
    ) -> list[Rollout]:
        """Return the newest ended rollout of each of these canaries, the newest end first."""
        plan, state = cast(rollouts.c.plan, JSONB), rollouts.c.state
        newest: dict[int, Rollout] = {}
        for canary in canaries:
            statement = (
                _joined()
                .where(
                    rollouts.c.experiment_id == experiment.id,
                    state["kind"].astext.in_(("rolled_back", "completed")),
                    plan["canaries"].has_key(canary),
                )
                .order_by(_ENDED_AT.desc(), rollouts.c.id.desc())
                .limit(1)
            )
            row = (await connection.execute(statement)).one_or_none()
            if row is not None:
                newest[row.id] = _rollout(row)
        return sorted(newest.values(), key=lambda ended: (_ended_at(ended), ended.id), reverse=True)

    async def harmed(
        self, connection: AsyncConnection, experiment: Experiment, canaries: Sequence[str]
    ) -> int | None:
        """Return the newest rollout that rolled back one of these canaries for harm; None if none did."""
        decision = rollout_decisions.c.decision
        statement = (
            select(rollouts.c.id)
            .join(rollout_decisions, rollouts.c.id == rollout_decisions.c.rollout_id)
            .where(
                rollouts.c.experiment_id == experiment.id,
                decision["kind"].as_string() == "roll_back",
                decision["reason"].as_string().in_(("harm", "limit")),
                cast(decision["canaries"], JSONB).has_any(array(canaries)),
            )
            .order_by(rollouts.c.id.desc())
            .limit(1)
        )
        rollout_id: int | None = await connection.scalar(statement)
        return rollout_id

    @asynccontextmanager
    async def locked(self, rollout_id: int, *, wait: bool) -> AsyncIterator[Locked | None]:
        """Open a transaction that may decide. None without `wait`: another worker holds the lock.

        There is one decision at a time, whichever worker makes it. A worker that stops in the
        middle loses the lock with its session, and has written nothing. PostgreSQL ends the session
        of a worker that is only paused after eight seconds. Raises NotFound.
        """
        _check_possible(rollout_id)
        async with self._engine.begin() as connection:
            chosen = select(rollouts.c.id).where(rollouts.c.id == rollout_id)
            locked_id = await connection.scalar(chosen.with_for_update(skip_locked=not wait))
            if locked_id is None:
                if await connection.scalar(chosen) is None:
                    raise NotFound(f"no rollout has the id {rollout_id}")
                yield None
                return
            row = (await connection.execute(_joined().where(rollouts.c.id == rollout_id))).one()
            experiment = await experiment_store.lock(connection, experiments.c.id == row.experiment_id)
            assert experiment is not None, "a rollout is deleted with its experiment"
            yield Locked(connection, _rollout(row), experiment)

    async def observed(self, locked: Locked) -> StoredTotals:
        """Return the totals of the locked experiment."""
        return await read_observed(locked.connection, locked.experiment.id)

    async def insert(
        self,
        connection: AsyncConnection,
        experiment: Experiment,
        plan: RolloutPlan,
        *,
        by: str,
        reason: str,
        at: datetime,
    ) -> Locked:
        """Insert a draft."""
        statement = insert(rollouts).values(
            experiment_id=experiment.id,
            plan=msgspec.to_builtins(plan),
            state=msgspec.to_builtins(Draft()),
            epoch=0,
            created_by=by,
            reason=reason,
            created_at=at,
        )
        made = (await connection.execute(statement.returning(rollouts.c.id))).scalar_one()
        row = (await connection.execute(_joined().where(rollouts.c.id == made))).one()
        return Locked(connection, _rollout(row), experiment)

    async def fix(self, connection: AsyncConnection, rollout: Rollout) -> None:
        """Store the plan and first epoch of a started rollout."""
        statement = update(rollouts).where(rollouts.c.id == rollout.id)
        await connection.execute(
            statement.values(plan=msgspec.to_builtins(rollout.plan), epoch=rollout.epoch)
        )

    async def delete(self, connection: AsyncConnection, rollout_id: int) -> None:
        """Delete a rollout with all its decisions."""
        await connection.execute(delete(rollouts).where(rollouts.c.id == rollout_id))

    async def watched(self, ended_since: datetime) -> list[Rollout]:
        """Return the rollouts under way, and those that ended since."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(_joined().where(_ACTIVE | (ended_since <= _ENDED_AT)))
            return [_rollout(row) for row in rows]

    async def count_by_state(self) -> dict[str, int]:
        """Count the rollouts in each state that has any."""
        kind = rollouts.c.state["kind"].astext
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(kind, func.count()).group_by(kind))
            return {row[0]: row[1] for row in rows}

    async def note(self, connection: AsyncConnection, rollout_id: int, looked: Looked) -> None:
        """Store the last look."""
        statement = update(rollouts).where(rollouts.c.id == rollout_id)
        await connection.execute(statement.values(looked=msgspec.to_builtins(looked)))

    async def move(self, connection: AsyncConnection, rollout_id: int, state: State) -> None:
        """Store the state of a rollout."""
        statement = update(rollouts).where(rollouts.c.id == rollout_id)
        await connection.execute(statement.values(state=msgspec.to_builtins(state)))

    async def take(
        self, connection: AsyncConnection, rollout_id: int, taken: Taken, receipt: Receipt | None
    ) -> Taken:
        """Store a decision under the next number."""
        last = select(func.coalesce(func.max(rollout_decisions.c.number), 0))
        number = await connection.scalar(last.where(rollout_decisions.c.rollout_id == rollout_id))
        numbered = msgspec.structs.replace(taken, number=(number or 0) + 1)
        await connection.execute(
            insert(rollout_decisions).values(
                rollout_id=rollout_id,
                number=numbered.number,
                decision=msgspec.to_builtins(numbered.decision),
                receipt=None if receipt is None else msgspec.to_builtins(receipt),
                by=numbered.by,
                reason=numbered.reason,
                at=numbered.at,
            )
        )
        return numbered

    async def hold(
        self, connection: AsyncConnection, experiment: Experiment, held: Mapping[str, float], at: datetime
    ) -> Experiment:
        """Give the experiment other held shares, which begins an epoch."""
        changed = msgspec.structs.replace(experiment, held=dict(held), epoch=experiment.epoch + 1)
        return await experiment_store.store(connection, experiment, changed, at)

    async def tell(
        self, connection: AsyncConnection, *, key: str, event: str, data: Mapping[str, Any], at: datetime
    ) -> None:
        """Put a webhook into the outbox."""
        await self._outbox.enqueue(connection, key=key, type=event, data=data, at=at)

    async def examples(self, locked: Locked, variants: list[int], limit: int) -> list[str]:
        """Return ids of assignments to these variants since the start of the rollout, in bounded time."""
        parameters = {
            "experiment_id": locked.experiment.id,
            "since": locked.rollout.epoch,
            "variants": variants,
            "units_max": limits.ROLLOUT_EXAMPLES_UNITS_MAX,
            "examples": limit,
        }
        return [str(assignment) for assignment in await locked.connection.scalars(_EXAMPLES, parameters)]


async def metric_readers(connection: AsyncConnection, experiment_id: int) -> dict[str, str]:
    """Return the rollout that decides by each metric of an experiment, by the metric's key."""
    chosen = select(rollouts.c.id, rollouts.c.plan).where(rollouts.c.experiment_id == experiment_id, _UNENDED)
    readers: dict[str, str] = {}
    for row in await connection.execute(chosen.order_by(rollouts.c.id)):
        plan = msgspec.convert(row.plan, RolloutPlan)
        decisive = [guardrail.metric.key for guardrail in plan.guardrails]
        decisive += [] if plan.primary is None else [plan.primary.metric.key]
        readers |= dict.fromkeys(decisive, f"rollout {row.id}")
    return readers


def _check_possible(rollout_id: int) -> None:
    if not 1 <= rollout_id <= limits.ROLLOUT_ID_MAX:
        raise NotFound(f"no rollout has the id {rollout_id}")


def _ended_at(rollout: Rollout) -> datetime:
    assert isinstance(rollout.state, Completed | RolledBack), "only ended rollouts are chosen"
    return rollout.state.ended_at


def _joined() -> Select[Any]:
    return select(rollouts, experiments.c.key).join(experiments, experiments.c.id == rollouts.c.experiment_id)


def _rollout(row: Row[Any]) -> Rollout:
    return Rollout(
        id=row.id,
        experiment=row.key,
        plan=msgspec.convert(row.plan, RolloutPlan),
        state=msgspec.convert(row.state, State),
        epoch=row.epoch,
        looked=None if row.looked is None else msgspec.convert(row.looked, Looked),
        created_by=row.created_by,
        reason=row.reason,
        created_at=row.created_at,
    )


def _taken(row: Row[Any]) -> Taken:
    return msgspec.convert({field: getattr(row, field) for field in Taken.__struct_fields__}, Taken)
