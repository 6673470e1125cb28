"""The ledger in PostgreSQL: log, totals and stream position change together, or not at all."""

import math
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, LiteralString, NamedTuple, TypeVar
from uuid import UUID

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray
from psycopg import AsyncConnection, AsyncCursor, DataError, IntegrityError
from psycopg.errors import DeadlockDetected
from psycopg.sql import SQL, Identifier

from app.core import limits
from app.core.postgres import connect
from app.core.telemetry import CONTEXT_MISFITS
from app.experiments.metrics import Metric
from app.experiments.model import Policy, Reward
from app.experiments.plan import AnalysisPlan
from app.feedback import rows
from app.feedback.batch import Batch, StreamEntry
from app.feedback.draw_store import MOVING_KINDS, add_draws, recount_draws
from app.feedback.learning import (
    LEARNING_KINDS,
    Change,
    Key,
    Learning,
    PolicyTotals,
    Seen,
    agree,
    changes,
    learning_of,
    moved,
    plus,
)
from app.feedback.learning import Rows as LearnedRows
from app.feedback.measures import CellKey, Measures, measures_of
from app.feedback.rewards import (
    ASSIGNMENT,
    GIVEN,
    PENDING,
    Assignments,
    Difference,
    Given,
    Rule,
    differences,
    resolve,
)
from app.feedback.rows import Rows
from app.feedback.session import arrays, copy, read_signals, sql
from app.feedback.unit_store import move_units, recount_cells

_T = TypeVar("_T")
_LOG: Final = structlog.get_logger(__name__)


_TEMPORARY_TABLES: Final = sql("temporary_tables")
_ACQUIRE_LEASE: Final = sql("acquire_lease")
_LOCK_STAGED: Final = sql("lock_staged")
_INSERT_ASSIGNMENTS: Final = sql("insert_assignments")
_EXPOSE_ASSIGNMENTS: Final = sql("expose_assignments")
_UPSERT_SIGNALS: Final = sql("upsert_signals")
_UPSERT_UNIT_SIGNALS: Final = sql("upsert_unit_signals")
_AFFECT_BY_UNIT: Final = sql("affect_by_unit")
_AFFECT_OVERDUE: Final = sql("affect_overdue")
_AFFECT_SILENT: Final = sql("affect_silent")
_AFFECT_RANGE: Final = sql("affect_range")
_LOCK_AFFECTED: Final = sql("lock_affected")
_STORE_REWARDS: Final = sql("store_rewards")
_ADD_TO_TOTALS: Final = sql("add_to_totals")
_REBUILD_TOTALS: Final = sql("rebuild_totals")
_READ_LEARNING: Final = sql("read_learning")
_READ_CONTEXTS: Final = sql("read_contexts")
_ENSURE_POLICY_TOTALS: Final = sql("ensure_policy_totals")
_LOCK_POLICY_TOTALS: Final = sql("lock_policy_totals")
_STORE_POLICY_TOTALS: Final = sql("store_policy_totals")

_RULES: Final = """
    SELECT
        id, definition -> 'reward', EXISTS (SELECT FROM unit_signals WHERE experiment_id = experiments.id),
        EXISTS (
            SELECT FROM epochs
            WHERE experiment_id = experiments.id
                AND (policy ->> 'kind' = ANY(%(kinds)s) OR policy ? 'forgetting')
        ),
        definition -> 'metrics', definition -> 'plan', definition ->> 'stickiness',
        definition ->> 'stickiness' = 'none' AND EXISTS (
            SELECT FROM epochs WHERE experiment_id = experiments.id AND policy ->> 'kind' = ANY(%(moving)s)
        )
    FROM experiments
    WHERE id = ANY(%(ids)s)
"""
_WANT: Final = """
    INSERT INTO publications (experiment_id)
    SELECT * FROM unnest(%s::integer[])
    ON CONFLICT (experiment_id) DO UPDATE SET wanted = publications.wanted + 1
"""
_REWARDED: Final = """
    SELECT
        epoch, variant, reward, context, propensity, (extract(epoch FROM assigned_at) * 1000000)::bigint
    FROM assignments
    WHERE experiment_id = %s AND epoch = ANY(%s) AND exposed AND reward IS NOT NULL
"""
_POLICY_TOTALS: Final = "SELECT epoch, variant, part, body FROM policy_totals WHERE experiment_id = %s"

POISON: Final = (DataError, IntegrityError)
"""What PostgreSQL raises about the events themselves; any other error is about its own state."""

_UNIT_LOCKS: Final = 64
_LOCK_CLASS: Final = 0x57414C44  # "WALD"

# Columns of results that are one row of arrays.
_PLACE: Final = ("place", "V6")
_LOCKED: Final = (
    ("number", ">i4"),
    _PLACE,
    ("deadline_us", ">i8"),
    ("exposed", "u1"),
    ("outcome", ">i2"),
    ("reward", ">i4"),
)
_STORED: Final = (("id", "S16"), _PLACE)
_AFFECTED: Final = (
    _PLACE,
    ("experiment_id", ">i4"),
    ("unit_hash", ">i8"),
    ("id", "S16"),
    ("assigned_us", ">i8"),
    ("deadline_us", ">i8"),
    ("epoch", ">i4"),
    ("variant", ">i2"),
    ("exposed", "u1"),
    ("outcome", ">i2"),
    ("reward", ">i4"),
)


class Lease(NamedTuple):
    """The right to apply one shard's entries, until someone else has a greater `fence`."""

    shard: int
    fence: int
    position: str
    applied: int

    def moved(self, entries: Sequence[StreamEntry]) -> "Lease":
        """Behind the last of `entries`."""
        return self._replace(
            position=entries[-1].id, applied=self.applied + sum(entry.n for entry in entries)
        )


class Fenced(Exception):
    """The lease has gone to another owner: nothing was written."""


class LedgerStore:
    """One connection's worth of ledger work. Every method is one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def open(cls, database_url: str) -> AsyncIterator["LedgerStore"]:
        """Connect and prepare the session."""
        async with await connect(database_url) as connection:
            # What a batch touches is looked up row by row, whatever the planner thinks of the sizes.
            await connection.execute("SET work_mem = '32MB'")
            for way in ("hashjoin", "mergejoin", "bitmapscan"):
                await connection.execute(SQL("SET {} = off").format(Identifier(f"enable_{way}")))
            await connection.execute(_TEMPORARY_TABLES)
            yield cls(connection)

    async def acquire(self, shard: int, owner: str) -> Lease | None:
        """Take a shard whose owner is gone or overdue by PostgreSQL's clock; None: somebody holds it."""
        cursor = await self._connection.execute(
            _ACQUIRE_LEASE, {"shard": shard, "owner": owner, "lease_s": limits.LEASE_S}
        )
        row = await cursor.fetchone()
        return None if row is None else Lease(shard, *row)

    async def release(self, shard: int, owner: str) -> None:
        """Let the next owner in without waiting for the lease to end."""
        await self._connection.execute(
            "UPDATE stream_positions SET owner = NULL, lease_until = NULL WHERE shard = %s AND owner = %s",
            (shard, owner),
        )

    async def renew(self, lease: Lease, watermark: datetime) -> None:
        """Keep the lease of an idle shard, all of whose entries before `watermark` are in the log.

        Raises Fenced.
        """
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await _check_fence(cursor, lease)
            await _move(cursor, lease, watermark)

    async def apply(
        self, lease: Lease, batch: Batch, entries: Sequence[StreamEntry], watermark: datetime
    ) -> tuple[Lease, list[int]]:
        """Take `batch`, the staged `entries`, into log and totals and move behind the last of them.

        Returns the lease at its new position and the experiments whose totals changed. Raises Fenced.
        """

        async def work(cursor: AsyncCursor) -> tuple[Lease, list[int]]:
            before = await _check_fence(cursor, lease)
            await _lock_units(cursor, batch)
            rules = await _rules(cursor, batch.experiment_ids)
            kept = batch.only(rules.rewards)
            logged = await _log(cursor, kept, rules.rewards)
            reached = watermark if before is None else max(watermark, before)
            changed = await _resolve(cursor, logged, rules, passed_us=reached.timestamp() * 1e6)
            if rules.drawing:
                ours = logged.assignments[: len(kept.bodies)]
                await add_draws(cursor, kept.bodies[ours["exposed"] & ~ours["counted"]], rules.drawing)
            moved = lease.moved(entries)
            await _move(cursor, moved, watermark)
            return moved, changed

        return await self._transact(work)

    async def bury(self, lease: Lease, entry: StreamEntry, error: str, watermark: datetime) -> Lease:
        """Put an entry that cannot be applied aside and move on. Raises Fenced."""
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await _check_fence(cursor, lease)
            await cursor.execute(
                "INSERT INTO dead_letters (shard, stream_id, body, error) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (shard, stream_id) DO NOTHING",
                (lease.shard, entry.id, entry.body, error[: limits.DEAD_LETTER_ERROR_LENGTH_MAX]),
            )
            moved = lease.moved([entry])
            await _move(cursor, moved, watermark)
        return moved

    async def resolve_silence(self) -> tuple[int, list[int]]:
        """Resolve a bounded number of assignments whose horizon passed in silence.

        Silent as of the watermark that all shards have reached, so that no acknowledged signal is overtaken.
        Returns how many there were (`SWEEP_ASSIGNMENTS_MAX`: there may be more) and the experiments whose
        totals changed.
        """

        async def work(cursor: AsyncCursor) -> tuple[int, list[int]]:
            await cursor.execute("SELECT FROM horizons FOR UPDATE SKIP LOCKED")
            if not cursor.rowcount:  # somebody else is at it
                return 0, []
            await cursor.execute(
                "SELECT min(watermark) FROM stream_positions HAVING count(*) = count(watermark)"
            )
            row = await cursor.fetchone()
            if row is None or row[0] is None:
                return 0, []
            await cursor.execute("SELECT id FROM experiments WHERE reads_silence")
            hearing = [one for (one,) in await cursor.fetchall()]
            bounds = {"watermark": row[0], "rows_max": limits.SWEEP_ASSIGNMENTS_MAX, "hearing": hearing}
            await cursor.execute(_AFFECT_SILENT, bounds)
            n_silent = cursor.rowcount
            await cursor.execute(_AFFECT_OVERDUE, bounds)
            n_overdue = cursor.rowcount
            changed = await _resolve_affected(cursor, silent_until_us=row[0].timestamp() * 1e6)
            return max(n_silent, n_overdue), changed

        return await self._transact(work)

    async def experiment_ids(self) -> list[int]:
        """Of all experiments."""
        cursor = await self._connection.execute("SELECT id FROM experiments ORDER BY id")
        return [row[0] for row in await cursor.fetchall()]

    async def resolve_again(
        self, experiment_id: int, *, after: tuple[int, UUID]
    ) -> tuple[tuple[int, UUID] | None, bool]:
        """Recompute the rewards of a bounded number of assignments behind (unit hash, id).

        Returns the last of them, None if there were none, and whether totals changed.
        """
        parameters = {
            "experiment_id": experiment_id,
            "unit_hash": after[0],
            "id": after[1],
            "rows_max": limits.SWEEP_ASSIGNMENTS_MAX,
        }

        async def work(cursor: AsyncCursor) -> tuple[tuple[int, UUID] | None, bool]:
            await cursor.execute(_AFFECT_RANGE, parameters)
            keys: list[tuple[int, UUID]] = await cursor.fetchall()
            changed = await _resolve_affected(cursor)
            return max(keys, default=None), bool(changed)

        return await self._transact(work)

    async def recount(self, experiment_id: int) -> list[tuple[int, int, tuple[int, ...], tuple[int, ...]]]:
        """Set an experiment's totals to what its log says; returns (epoch, variant, before, after)."""
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await cursor.execute("SET LOCAL statement_timeout = 0")  # it reads the whole log of an experiment
            await cursor.execute("SET LOCAL enable_hashjoin = on")
            await cursor.execute("LOCK TABLE totals IN SHARE ROW EXCLUSIVE MODE")
            await cursor.execute(_REBUILD_TOTALS, {"experiment_id": experiment_id})
            return [
                (epoch, variant, tuple(map(int, before)), tuple(map(int, after)))
                for epoch, variant, before, after in await cursor.fetchall()
            ]

    async def recount_learned(self, experiment_id: int) -> list[tuple[int, int]]:
        """Set what an experiment's policies learned to what its log says.

        Returns (epoch, variant) of what differed.
        """
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            learning = await _learning(cursor, [experiment_id])
            if not learning:
                return []
            await cursor.execute("SET LOCAL statement_timeout = 0")
            # Whoever adds to them has committed, and is seen here, or waits and adds to what is stored here.
            await cursor.execute("LOCK TABLE policy_totals IN SHARE ROW EXCLUSIVE MODE")
            fresh = await self._learned_anew(experiment_id, learning)
            await cursor.execute(_POLICY_TOTALS, (experiment_id,))
            stored = {
                (experiment_id, epoch, variant, part): body
                for epoch, variant, part, body in await cursor.fetchall()
            }
            right: dict[Key, PolicyTotals] = {}
            differed = []
            for key in sorted({*fresh, *stored}):
                if key[:2] not in learning:
                    continue
                right[key] = fresh.get(key, learning[key[:2]].empty)
                if not agree(learning[key[:2]], right[key], stored.get(key, b"")):
                    differed.append(key)
            if right:
                await cursor.execute(_ENSURE_POLICY_TOTALS, _policy_keys(right))
                bodies = [totals.to_bytes() for totals in right.values()]
                await cursor.execute(_STORE_POLICY_TOTALS, _policy_keys(right) | {"body": bodies})
            if differed:
                await cursor.execute(_WANT, ([experiment_id],))
            return sorted({(epoch, variant) for _, epoch, variant, _ in differed})

    async def recount_cells(self, experiment_id: int) -> list[CellKey]:
        """Set the totals of an experiment's cells to what its units come to. Returns those that differed."""
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            measures = (await _rules(cursor, [experiment_id])).measures.get(experiment_id)
            if measures is None:
                return []
            await cursor.execute("SET LOCAL statement_timeout = 0")
            await cursor.execute("LOCK TABLE metric_totals IN SHARE ROW EXCLUSIVE MODE")
            async with self._connection.cursor(name="units") as units:
                differed = await recount_cells(
                    cursor, units, experiment_id, measures, rows_max=limits.SWEEP_ASSIGNMENTS_MAX
                )
            if differed:
                await cursor.execute(_WANT, ([experiment_id],))
            return differed

    async def recount_draws(self, experiment_id: int) -> list[tuple[int, int]]:
        """Set an experiment's draws to what its log says; returns (epoch, variant) of those that differed."""
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            if experiment_id not in (await _rules(cursor, [experiment_id])).drawing:
                return []
            await cursor.execute("SET LOCAL statement_timeout = 0")
            await cursor.execute("SET LOCAL enable_hashjoin = on")
            await cursor.execute("LOCK TABLE draws IN SHARE ROW EXCLUSIVE MODE")
            return await recount_draws(cursor, experiment_id)

    async def _learned_anew(
        self, experiment_id: int, learning: Mapping[tuple[int, int], Learning]
    ) -> dict[Key, PolicyTotals]:
        """From the rewards in the log, a bounded number of rows at a time."""
        totals: dict[Key, PolicyTotals] = {}
        async with self._connection.cursor(name="rewarded") as cursor:
            await cursor.execute(_REWARDED, (experiment_id, [epoch for _, epoch in learning]))
            while found := await cursor.fetchmany(limits.SWEEP_ASSIGNMENTS_MAX):
                chosen: defaultdict[Key, LearnedRows] = defaultdict(lambda: LearnedRows([], []))
                for epoch, variant, reward, *rest in found:
                    of, seen = learning[experiment_id, epoch], Seen(*rest)
                    x = of.row(seen)
                    if x is not None:
                        some = chosen[experiment_id, epoch, variant, of.part(seen)]
                        some.given.append(x)
                        some.rewards.append(reward)
                for key, some in chosen.items():
                    of = learning[key[:2]]
                    totals[key] = plus(totals.get(key, of.empty), of.of_rows(some))
        return totals

    async def _transact(self, work: Callable[[AsyncCursor], Awaitable[_T]]) -> _T:
        """Run `work` as one transaction; again if it was chosen to end a deadlock: then it wrote nothing."""
        for attempts_left in reversed(range(limits.LEDGER_DEADLOCKS_MAX)):
            try:
                async with self._connection.transaction(), self._connection.cursor() as cursor:
                    return await work(cursor)
            except DeadlockDetected:
                if not attempts_left:
                    raise
        raise AssertionError("the last attempt returns or raises")


async def _check_fence(cursor: AsyncCursor, lease: Lease) -> datetime | None:
    """Hold the position's row until the end of the transaction. Returns its watermark."""
    await cursor.execute(
        "SELECT watermark FROM stream_positions WHERE shard = %s AND fence = %s FOR NO KEY UPDATE",
        (lease.shard, lease.fence),
    )
    row = await cursor.fetchone()
    if row is None:
        raise Fenced(f"shard {lease.shard} has another owner than that of fence {lease.fence}")
    watermark: datetime | None = row[0]
    return watermark


async def _move(cursor: AsyncCursor, lease: Lease, watermark: datetime) -> None:
    await cursor.execute(
        "UPDATE stream_positions SET position = %s, applied = %s, updated_at = now(),"
        " watermark = greatest(watermark, %s), lease_until = now() + %s * interval '1 second'"
        " WHERE shard = %s",
        (lease.position, lease.applied, watermark, limits.LEASE_S, lease.shard),
    )


async def _lock_units(cursor: AsyncCursor, batch: Batch) -> None:
    """Signals by unit exclude new exposures of the same experiments, which could take them over unseen.

    Exposures do not exclude each other. Experiments share a bounded number of locks, taken in order.
    """
    exclusive = {one % _UNIT_LOCKS for one in batch.unit_experiment_ids}
    for number in sorted({one % _UNIT_LOCKS for one in batch.experiment_ids}):
        mode: LiteralString = "" if number in exclusive else "_shared"
        await cursor.execute(f"SELECT pg_advisory_xact_lock{mode}(%s, %s)", (_LOCK_CLASS, number))


class Logged(NamedTuple):
    """Assignments that a transaction has locked, some of which have to be resolved.

    `resolving` says which. `given` is the whole log of those of them that are not `unread`.
    """

    assignments: Assignments
    resolving: NDArray[np.bool_]
    unread: NDArray[np.bool_]
    given: Given


class Rules(NamedTuple):
    """Of experiments that exist: how signals become rewards, and what is measured of units where it is.

    `drawing`: those whose draws are summed with their probabilities.
    """

    rewards: Mapping[int, Rule]
    measures: Mapping[int, Measures]
    drawing: Collection[int]


async def _rules(cursor: AsyncCursor, experiment_ids: Collection[int]) -> Rules:
    kinds = {"kinds": list(LEARNING_KINDS), "moving": list(MOVING_KINDS)}
    await cursor.execute(_RULES, {"ids": list(experiment_ids), **kinds})
    rules, measures, drawing = {}, {}, set()
    for experiment_id, reward, by_unit, learns, metrics, plan, stickiness, draws in await cursor.fetchall():
        rules[experiment_id] = Rule.of(msgspec.convert(reward, Reward), by_unit=by_unit, learns=learns)
        if metrics or plan or stickiness != "none":
            found = measures_of(
                msgspec.convert(metrics or (), tuple[Metric, ...]),
                msgspec.convert(plan or {}, AnalysisPlan),
                stickiness,
            )
            if found is not None:
                measures[experiment_id] = found
        if draws:
            drawing.add(experiment_id)
    return Rules(rules, measures, drawing)


async def _learning(cursor: AsyncCursor, experiment_ids: Collection[int]) -> dict[tuple[int, int], Learning]:
    """What the policies of these experiments learn, by experiment and epoch."""
    parameters = {"experiment_ids": list(experiment_ids), "kinds": list(LEARNING_KINDS)}
    await cursor.execute(_READ_LEARNING, parameters)
    found = {}
    for experiment_id, epoch, policy in await cursor.fetchall():
        learning = learning_of(msgspec.convert(policy, Policy))
        if learning is not None:
            found[experiment_id, epoch] = learning
    return found


async def _log(cursor: AsyncCursor, batch: Batch, rules: Mapping[int, Rule]) -> Logged:
    """Take a batch into the log."""
    horizons = [rules[one].horizon_us for one in batch.bodies["experiment_id"].tolist()]
    assignments = batch.assignments(np.array(horizons, np.int64))
    new, exposing = await _log_assignments(cursor, batch, assignments)
    spoken = np.zeros(len(assignments), np.bool_)
    spoken[batch.given.signals["owner"]] = True
    # The log says nothing that counts about what is exposed and pending, or has just been stored.
    unread = ~new & ~(assignments["exposed"] & (assignments["outcome"] == PENDING)) | exposing
    if not await _log_signals(cursor, batch, assignments):
        named = [one is not None for one in batch.ids]
        unread[batch.given.signals["owner"][np.array(named, np.bool_)]] = True
    resolving = spoken | exposing
    elsewhere = await _log_unit_signals(cursor, batch, rules)
    known = np.isin(assignments["id"], elsewhere["id"])
    elsewhere = elsewhere[~np.isin(elsewhere["id"], assignments["id"])]
    others = np.ones(len(elsewhere), np.bool_)
    return Logged(
        np.concatenate([assignments, elsewhere]),
        np.concatenate([resolving | known, others]),
        np.concatenate([unread | known, others]),
        batch.given,
    )


async def _log_assignments(
    cursor: AsyncCursor, batch: Batch, assignments: Assignments
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Store what is new and lock what is stored; `assignments` become as they stand then.

    Returns which are new, and which of the others have their exposure only now.
    """
    new, locked = np.zeros((2, len(assignments)), np.bool_)
    missing = batch.exposed  # very likely: what is only spoken of is stored by then
    while not (new | locked).all():  # a third time if somebody else has stored some in between
        if missing.any():
            await copy(
                cursor, "staged_assignments", batch.assignment_rows(missing, assignments["deadline_us"])
            )
            stored = await arrays(cursor, _INSERT_ASSIGNMENTS, _STORED)
            place = _at(assignments, stored, missing)
            assignments["place"][place] = stored["place"]
            new[place] = True
        unknown = ~(new | locked)
        if unknown.any():
            await copy(cursor, "staged_keys", batch.keys(np.flatnonzero(unknown)))
            found = await arrays(cursor, _LOCK_STAGED, _LOCKED)
            numbers = found["number"]
            for name in ("place", "deadline_us", "exposed", "outcome", "reward"):
                assignments[name][numbers] = found[name]
            assignments["counted"][numbers] = found["exposed"]
            locked[numbers] = True
        missing = ~(new | locked)
    exposing = batch.exposed & ~assignments["exposed"]
    if exposing.any():
        exposed = await arrays(cursor, _EXPOSE_ASSIGNMENTS, _STORED)
        assignments["place"][_at(assignments, exposed, exposing)] = exposed["place"]
        assignments["exposed"][exposing] = True
    return new, exposing


def _at(assignments: Assignments, stored: NDArray[np.void], among: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Where in `assignments` those are that were stored; most often all that are `among` them, in order."""
    numbers = np.flatnonzero(among)
    if np.array_equal(assignments["id"][numbers], stored["id"]):
        return numbers
    position = dict(zip(assignments["id"][numbers].tolist(), numbers.tolist(), strict=True))
    return np.array([position[one] for one in stored["id"].tolist()], np.intp)


async def _log_signals(cursor: AsyncCursor, batch: Batch, assignments: Assignments) -> bool:
    """Whether none of them was in the log before."""
    if not len(batch.given.signals):
        return True
    signals = batch.signal_rows(assignments["deadline_us"])
    await copy(cursor, "staged_signals", signals)
    await cursor.execute(_UPSERT_SIGNALS)
    return cursor.rowcount == signals.n


async def _log_unit_signals(cursor: AsyncCursor, batch: Batch, rules: Mapping[int, Rule]) -> Assignments:
    """Log signals by unit; lock the assignments that they, or those logged before, may now belong to."""
    if not batch.unit_signals.n and not any(rule.by_unit for rule in rules.values()):
        return np.empty(0, ASSIGNMENT)
    await copy(cursor, "staged_unit_signals", batch.unit_signals)
    await cursor.execute(_UPSERT_UNIT_SIGNALS)
    await cursor.execute(_AFFECT_BY_UNIT)
    return await _lock_affected(cursor)


async def _lock_affected(cursor: AsyncCursor) -> Assignments:
    found = await arrays(cursor, _LOCK_AFFECTED, _AFFECTED)
    affected = np.zeros(len(found), ASSIGNMENT)
    for name, _ in _AFFECTED:
        affected[name] = found[name]
    affected["counted"] = affected["exposed"]
    return affected


async def _resolve_affected(cursor: AsyncCursor, *, silent_until_us: float = -math.inf) -> list[int]:
    """Lock and resolve what stands in `affected`. Returns the experiments whose totals changed."""
    assignments = await _lock_affected(cursor)
    rules = await _rules(cursor, np.unique(assignments["experiment_id"]).tolist())
    assignments = assignments[np.isin(assignments["experiment_id"], list(rules.rewards))]
    every = np.ones(len(assignments), np.bool_)
    logged = Logged(assignments, every, every, Given(np.empty(0, GIVEN), ()))
    return await _resolve(cursor, logged, rules, silent_until_us=silent_until_us)


async def _resolve(
    cursor: AsyncCursor,
    logged: Logged,
    rules: Rules,
    *,
    silent_until_us: float = -math.inf,
    passed_us: float = math.inf,
) -> list[int]:
    """Store the rewards that the log gives and add what changed to the totals.

    What becomes pending although its deadline is not after `passed_us`, so that the sweep may have passed
    it, is left to the sweep as overdue. Returns the experiments whose totals changed.
    """
    before = logged.assignments
    given = await _read_log(cursor, logged, logged.resolving & logged.unread)
    resolved = resolve(before, given, rules.rewards, silent_until_us=silent_until_us)
    after = np.where(logged.resolving, resolved, before)
    changed = (after["outcome"] != before["outcome"]) | (after["reward"] != before["reward"])
    learned = await _learn(cursor, before, after, [one for one, rule in rules.rewards.items() if rule.learns])
    await copy(cursor, "staged_rewards", _reward_rows(after[changed]))
    if changed.any():
        await cursor.execute(_STORE_REWARDS)
    new = after["exposed"] & ~before["counted"]
    measured = after["exposed"] & np.isin(after["experiment_id"], list(rules.measures))
    hears = [one for one, measures in rules.measures.items() if measures.reads_silence]
    hearing = np.isin(after["experiment_id"], hears)
    waiting = after["exposed"] & (after["outcome"] == PENDING) & (changed | new) | (hearing & new)
    await copy(cursor, "overdue_assignments", _key_rows(after[waiting & (after["deadline_us"] <= passed_us)]))
    moved_units = await move_units(cursor, after[measured & (logged.resolving | new)], rules.measures)
    totals_changed = await _add_to_totals(cursor, differences(before, after))
    only_besides = sorted((learned | moved_units).difference(totals_changed))
    if only_besides:
        await cursor.execute(_WANT, (only_besides,))
    return sorted([*totals_changed, *only_besides])


async def _learn(
    cursor: AsyncCursor, before: Assignments, after: Assignments, experiment_ids: Collection[int]
) -> set[int]:
    """Add what changed to the policy totals of these experiments. Returns those that have."""
    if not experiment_ids:
        return set()
    learning = await _learning(cursor, experiment_ids)
    numbers = moved(before, after, learning)
    if not len(numbers):
        return set()
    places = rows.rows(len(numbers), number=(">i4", numbers), place=("V6", before["place"][numbers]))
    await copy(cursor, "learning", places)
    await cursor.execute(_READ_CONTEXTS)
    found, misfits = changes(before, after, await cursor.fetchall(), learning)
    CONTEXT_MISFITS.inc(misfits)
    await _add_to_policy_totals(cursor, found)
    return {key[0] for key in found}


async def _add_to_policy_totals(cursor: AsyncCursor, found: Mapping[Key, Change]) -> None:
    """Totals that cannot take a change, which only a hand that is not ours can bring about, stay as they are.

    They must not hold up the ledger, and `wald rebuild` mends them.
    """
    if not found:
        return
    keys = _policy_keys(found)
    await cursor.execute(_ENSURE_POLICY_TOTALS, keys)
    await cursor.execute(_LOCK_POLICY_TOTALS, keys)
    bodies: dict[Key, bytes] = {}
    for *names, body in await cursor.fetchall():
        key: Key = tuple(names)
        try:
            bodies[key] = found[key].applied(body)
        except ValueError as error:
            _LOG.error("policy_totals_unusable", key=key, error=str(error), then="run wald rebuild")
    await cursor.execute(_STORE_POLICY_TOTALS, _policy_keys(bodies) | {"body": list(bodies.values())})


def _policy_keys(keys: Collection[Key]) -> dict[str, list[Any]]:
    columns = zip(*keys, strict=True) if keys else ((), (), (), ())
    return dict(zip(("experiment_id", "epoch", "variant", "part"), map(list, columns), strict=True))


def _reward_rows(assignments: Assignments) -> Rows:
    return rows.rows(
        len(assignments),
        place=("V6", assignments["place"]),
        outcome=(">i2", assignments["outcome"]),
        reward=(">i4", assignments["reward"]),
    )


def _key_rows(assignments: Assignments) -> Rows:
    return rows.rows(
        len(assignments),
        experiment_id=(">i4", assignments["experiment_id"]),
        unit_hash=(">i8", assignments["unit_hash"]),
        id=("S16", assignments["id"]),
    )


async def _read_log(cursor: AsyncCursor, logged: Logged, unread: NDArray[np.bool_]) -> Given:
    """What is given of those that are not unread, with the log of those that are."""
    if not unread.any():
        return logged.given
    owners = np.flatnonzero(unread)
    read = await read_signals(cursor, owners, logged.assignments[owners], logged.given.names)
    given = logged.given.signals
    return Given(np.concatenate([given[~unread[given["owner"]]], read.signals]), read.names)


async def _add_to_totals(cursor: AsyncCursor, found: Sequence[Difference]) -> list[int]:
    if found:
        columns = zip(Difference._fields, map(list, zip(*found, strict=True)), strict=True)
        await cursor.execute(_ADD_TO_TOTALS, dict(columns))
    return sorted({one.experiment_id for one in found})
