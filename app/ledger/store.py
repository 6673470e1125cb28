"""The ledger in PostgreSQL: log, totals and stream position change together, or not at all."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncConnection, AsyncCursor, DataError, IntegrityError
from psycopg.errors import DeadlockDetected

from app.core import locks
from app.core.clock import Clock, SystemClock
from app.core.limits import CLOCK_JUMP_US
from app.core.postgres import connect
from app.core.telemetry import LEDGER_EVENTS
from app.experiments.metrics import Metric
from app.experiments.model import Reward
from app.experiments.plan import AnalysisPlan
from app.experiments.signals import signals_of
from app.ledger import limits, rows
from app.ledger.draws.step import MOVING_KINDS, add_draws, recount_draws
from app.ledger.learning.model import LEARNING_KINDS
from app.ledger.learning.step import delete_forgotten, learn, learning_by_epoch, recount_learned
from app.ledger.log.batch import Batch, StreamEntry, UndecodableEntry
from app.ledger.log.step import Logged, lock_affected, log
from app.ledger.rewards.model import (
    GIVEN,
    PENDING,
    Assignments,
    Difference,
    Given,
    Integers,
    Rule,
    differences,
    resolve,
)
from app.ledger.rows import Rows
from app.ledger.session import copy, prepare, read_signals, sql
from app.ledger.signals.step import add_to_signal_totals, recount_signals
from app.ledger.signals.tally import SignalTally, uses_of
from app.ledger.units.measures import CellKey, Measures, measures_of
from app.ledger.units.series_step import thin_series
from app.ledger.units.step import Contexts, move_units, recount, touch_units
from app.ledger.units.strata import Shares, of_rewards
from app.ledger.units.strata_step import move_strata, recount_rewards

_T = TypeVar("_T")

_ACQUIRE_LEASE: Final = sql(__package__, "acquire_lease")
_AFFECT_OVERDUE: Final = sql(__package__, "affect_overdue")
_AFFECT_SILENT: Final = sql(__package__, "affect_silent")
_AFFECT_RANGE: Final = sql(__package__, "affect_range")
_STORE_REWARDS: Final = sql(__package__, "store_rewards")
_ADD_TO_TOTALS: Final = sql(__package__, "add_to_totals")
_REBUILD_TOTALS: Final = sql(__package__, "rebuild_totals")

_RULES: Final = """
    SELECT
        id, definition -> 'reward', EXISTS (SELECT FROM unit_signals WHERE experiment_id = experiments.id),
        EXISTS (
            SELECT FROM epochs
            WHERE experiment_id = experiments.id
                AND (policy ->> 'kind' = ANY(%(kinds)s) OR policy ? 'forgetting')
        ),
        definition -> 'metrics', definition -> 'plan', definition ->> 'stickiness',
        EXISTS (
            SELECT FROM epochs WHERE experiment_id = experiments.id AND policy ->> 'kind' = ANY(%(moving)s)
        ),
        json_array_length(definition -> 'variants'),
        (
            SELECT json_object_agg(epoch, (extract(epoch FROM started_at) * 1000000)::bigint)
            FROM epochs
            WHERE experiment_id = experiments.id AND policy ->> 'kind' <> 'fixed'
        )
    FROM experiments
    WHERE id = ANY(%(ids)s)
"""
_WANT: Final = """
    INSERT INTO publications (experiment_id)
    SELECT * FROM unnest(%s::integer[])
    ON CONFLICT (experiment_id) DO UPDATE SET wanted = publications.wanted + 1
"""

POISON: Final = (
    DataError,
    IntegrityError,
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
    RecursionError,
)
"""What PostgreSQL or our arithmetic raises about the events themselves; others are about an engine."""

_UNIT_LOCKS: Final = 64


class Lease(NamedTuple):
    """The right to apply one shard's entries, until someone else has a greater `fence`."""

    shard: int
    fence: int
    position: str
    applied: int

    def moved(self, entries: Sequence[StreamEntry]) -> "Lease":
        """Behind the last of `entries`; where it is without any."""
        if not entries:
            return self
        return self._replace(
            position=entries[-1].id, applied=self.applied + sum(entry.n for entry in entries)
        )


class Renewal(NamedTuple):
    """The last sign of life of a shard's owner: while it does not change, the owner has done nothing."""

    fence: int
    until: datetime | None


class Fenced(Exception):
    """The lease has gone to another owner: nothing was written."""


class LedgerStore:
    """One connection's worth of ledger work. Every method is one transaction."""

    def __init__(self, connection: AsyncConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def open(cls, database_url: str, clock: Clock | None = None) -> AsyncIterator["LedgerStore"]:
        """Connect and prepare the session. `clock` is the time that all processes share."""
        async with await connect(database_url) as connection:
            await prepare(connection)
            yield cls(connection, clock or SystemClock())

    async def acquire(self, shard: int, owner: str, stalled: Renewal | None = None) -> Lease | None:
        """Take a shard whose owner's session has ended, or has not renewed since `stalled` was read.

        None: another process holds it. The right lasts as long as this session, or until another process has
        waited `LEASE_S` for a renewal.
        """
        parameters = {
            "shard": shard,
            "owner": owner,
            "until": self._lease_until(),
            "stalled_fence": None if stalled is None else stalled.fence,
            "stalled_until": None if stalled is None else stalled.until,
        }
        cursor = await self._connection.execute(_ACQUIRE_LEASE, parameters)
        row = await cursor.fetchone()
        return None if row is None else Lease(shard, *row)

    async def renewal(self, shard: int) -> Renewal | None:
        """The last sign of life of the shard's owner; None: the shard was never owned."""
        cursor = await self._connection.execute(
            "SELECT fence, lease_until FROM stream_positions WHERE shard = %s", (shard,)
        )
        row = await cursor.fetchone()
        return None if row is None else Renewal(*row)

    def _lease_until(self) -> datetime:
        """For people and as a sign of life: it is compared with its former self, never with a clock."""
        return self._clock.now() + timedelta(seconds=limits.LEASE_S)

    async def release(self, shard: int, owner: str) -> None:
        """Let the next owner in without waiting for the lease to end."""
        await self._connection.execute(
            "UPDATE stream_positions SET owner = NULL, lease_until = NULL, session = NULL"
            " WHERE shard = %s AND owner = %s",
            (shard, owner),
        )

    async def renew(self, lease: Lease, watermark: datetime | None) -> None:
        """Keep the lease of an idle shard, all of whose entries before `watermark` are in the log.

        Raises Fenced.
        """
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await _check_fence(cursor, lease)
            await _move(cursor, lease, watermark, self._lease_until())

    async def begin_anew(self, lease: Lease) -> Lease:
        """Go back to the beginning of the stream: the log drops what was applied before. Raises Fenced."""
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await _check_fence(cursor, lease)
            begun = lease._replace(position="0-0", applied=0)
            await _move(cursor, begun, None, self._lease_until())
        return begun

    async def apply(
        self, lease: Lease, batch: Batch, entries: Sequence[StreamEntry], watermark: datetime | None
    ) -> tuple[Lease, list[int]]:
        """Take `batch`, the staged `entries`, into log and totals and move behind the last of them.

        `watermark` as in `renew`; None: no later than before.
        Returns the lease at its new position and the experiments whose totals changed. Raises Fenced.
        """

        async def work(cursor: AsyncCursor) -> tuple[Lease, list[int], SignalTally]:
            before = await _check_fence(cursor, lease)
            await _lock_units(cursor, batch)
            rules = await _rules(cursor, batch.experiment_ids)
            kept = batch.only(rules.rewards)
            rules.check(kept.bodies)
            tally = SignalTally()
            uses = uses_of({one: rule.signals for one, rule in rules.rewards.items()})
            logged = await log(cursor, kept, rules.rewards, tally, uses)
            reached = max((one.timestamp() * 1e6 for one in (watermark, before) if one), default=-math.inf)
            changed = await _resolve(cursor, logged, rules, passed_us=reached)
            if rules.drawing:
                ours = logged.assignments[: len(kept.bodies)]
                await add_draws(cursor, kept.bodies[ours["exposed"] & ~ours["counted"]], rules.drawing)
            await add_to_signal_totals(cursor, tally.moves, uses)
            moved = lease.moved(entries)
            await _move(cursor, moved, watermark, self._lease_until())
            tally.results["unknown_experiment"] += batch.n_events - kept.n_events
            return moved, changed, tally

        moved, changed, tally = await self._transact(work)
        _count(tally, sum(entry.n for entry in entries))
        return moved, changed

    async def bury(self, lease: Lease, entry: StreamEntry, error: str, watermark: datetime | None) -> Lease:
        """Put an entry that cannot be applied aside and move on. Raises Fenced."""
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await _check_fence(cursor, lease)
            await cursor.execute(
                "INSERT INTO dead_letters (shard, stream_id, body, error) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (shard, stream_id) DO NOTHING",
                (lease.shard, entry.id, entry.body, error[: limits.DEAD_LETTER_ERROR_LENGTH_MAX]),
            )
            moved = lease.moved([entry])
            await _move(cursor, moved, watermark, self._lease_until())
        return moved

    async def resolve_silence(self) -> tuple[int, list[int]]:
        """Resolve a bounded number of assignments whose horizon passed in silence.

        Silent as of the watermark that all shards have reached, so that no acknowledged signal is overtaken,
        and never later than the present. Returns how many there were (`SWEEP_ASSIGNMENTS_MAX`: there may be
        more) and the experiments whose totals changed.
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
            silent_until = min(row[0], self._clock.now())
            if row[0] - silent_until > timedelta(microseconds=CLOCK_JUMP_US):
                await _take_back(cursor, silent_until)
            await cursor.execute("SELECT id FROM experiments WHERE reads_silence")
            hearing = [one for (one,) in await cursor.fetchall()]
            bounds = {"watermark": silent_until, "rows_max": limits.SWEEP_ASSIGNMENTS_MAX, "hearing": hearing}
            await cursor.execute(_AFFECT_SILENT, bounds)
            n_silent = cursor.rowcount
            await cursor.execute(_AFFECT_OVERDUE, bounds)
            n_overdue = cursor.rowcount
            changed = await _resolve_affected(cursor, silent_until_us=silent_until.timestamp() * 1e6)
            return max(n_silent, n_overdue), changed

        return await self._transact(work)

    async def delete_forgotten(self) -> int:
        """Delete a bounded number of policy totals that no policy can read any more. Returns how many."""

        async def work(cursor: AsyncCursor) -> int:
            return await delete_forgotten(
                cursor, epochs_max=limits.FORGOTTEN_EPOCHS_MAX, rows_max=limits.FORGOTTEN_ROWS_MAX
            )

        return await self._transact(work)

    async def thin_series(self) -> int:
        """Let a bounded number of old series stand for longer spans. Returns how many."""

        async def work(cursor: AsyncCursor) -> int:
            return await thin_series(cursor, rows_max=limits.SERIES_THIN_ROWS_MAX)

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
            await cursor.execute("SET LOCAL enable_seqscan = on")
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
            learning = await learning_by_epoch(cursor, [experiment_id])
            if not learning:
                return []
            await cursor.execute("SET LOCAL statement_timeout = 0")
            # Whoever adds to them has committed, and is seen here, or waits and adds to what is stored here.
            await cursor.execute("LOCK TABLE policy_totals IN SHARE ROW EXCLUSIVE MODE")
            async with self._connection.cursor(name="rewarded") as rewarded:
                differed = await recount_learned(
                    cursor, rewarded, experiment_id, learning, rows_max=limits.SWEEP_ASSIGNMENTS_MAX
                )
            if differed:
                await cursor.execute(_WANT, ([experiment_id],))
            return sorted({(epoch, variant) for _, epoch, variant, _ in differed})

    async def recount_units(
        self, experiment_id: int
    ) -> tuple[list[CellKey], list[tuple[int, int]], list[tuple[int, int]]]:
        """Set an experiment's cells, series and strata to what its units come to.

        Returns the cells that differed, and (epoch, variant) of series and of strata that did.
        """
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            rules = await _rules(cursor, [experiment_id])
            measures, shares = rules.measures.get(experiment_id), rules.shares.get(experiment_id)
            if measures is None and shares is None:
                return [], [], []
            await cursor.execute("SET LOCAL statement_timeout = 0")
            await cursor.execute(
                "LOCK TABLE metric_totals, metric_series, share_totals IN SHARE ROW EXCLUSIVE MODE"
            )
            differed: list[CellKey] = []
            series: list[tuple[int, int]] = []
            async with self._connection.cursor(name="units") as units:
                if measures is not None:
                    differed, series, strata = await recount(
                        cursor, units, experiment_id, measures, rows_max=limits.SWEEP_ASSIGNMENTS_MAX
                    )
                else:
                    assert shares is not None
                    strata = await recount_rewards(
                        cursor, units, experiment_id, shares, rows_max=limits.SWEEP_ASSIGNMENTS_MAX
                    )
            if differed or strata:
                await cursor.execute(_WANT, ([experiment_id],))
            return differed, series, strata

    async def recount_draws(self, experiment_id: int) -> list[tuple[int, int]]:
        """Set an experiment's draws to what its log says; returns (epoch, variant) of those that differed."""
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            by_unit = (await _rules(cursor, [experiment_id])).drawing.get(experiment_id)
            if by_unit is None:
                return []
            await cursor.execute("SET LOCAL statement_timeout = 0")
            await cursor.execute("SET LOCAL enable_hashjoin = on")
            await cursor.execute("SET LOCAL enable_seqscan = on")
            await cursor.execute("LOCK TABLE draws IN SHARE ROW EXCLUSIVE MODE")
            return await recount_draws(cursor, experiment_id, by_unit=by_unit)

    async def recount_signals(self, experiment_id: int) -> list[str]:
        """Set an experiment's totals of signals to what its log says; returns the names that differed."""
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            rule = (await _rules(cursor, [experiment_id])).rewards.get(experiment_id)
            if rule is None:
                return []
            await cursor.execute("SET LOCAL statement_timeout = 0")
            for way in ("hashjoin", "mergejoin", "seqscan"):
                await cursor.execute(f"SET LOCAL enable_{way} = on")
            # Whoever adds to them has committed, and is seen here, or waits and adds to what is stored here.
            await cursor.execute("LOCK TABLE signal_totals IN SHARE ROW EXCLUSIVE MODE")
            return await recount_signals(cursor, experiment_id, rule.signals)

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


def _count(tally: SignalTally, n_events: int) -> None:
    """Count the events of a committed transaction; what is left over said nothing new, or revised a value."""
    tally.results["repeated"] = max(0, n_events - tally.results.total())
    for result, n in tally.results.items():
        if n:
            LEDGER_EVENTS.labels(result).inc(n)


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


async def _move(cursor: AsyncCursor, lease: Lease, watermark: datetime | None, until: datetime) -> None:
    await cursor.execute(
        "UPDATE stream_positions SET position = %s, applied = %s, updated_at = now(),"
        " watermark = greatest(watermark, %s), lease_until = %s WHERE shard = %s",
        (lease.position, lease.applied, watermark, until, lease.shard),
    )


async def _take_back(cursor: AsyncCursor, now: datetime) -> None:
    """Watermarks and a sweep that are in the future, as an earlier version left them after a clock's jump."""
    await cursor.execute("UPDATE stream_positions SET watermark = %s WHERE watermark > %s", (now, now))
    await cursor.execute("UPDATE horizons SET swept_until = least(swept_until, %s)", (now,))


async def _lock_units(cursor: AsyncCursor, batch: Batch) -> None:
    """Signals by unit exclude new exposures of the same experiments, which could take them over unseen.

    Exposures do not exclude each other. Experiments share a bounded number of locks, taken in order.
    """
    exclusive = {one % _UNIT_LOCKS for one in batch.unit_experiment_ids}
    for number in sorted({one % _UNIT_LOCKS for one in batch.experiment_ids}):
        statement = locks.LOCK_MEMBER if number in exclusive else locks.LOCK_MEMBER_SHARED
        await cursor.execute(statement, (locks.UNIT_SIGNALS, number))


class Rules(NamedTuple):
    """Of experiments that exist: how signals become rewards, and what is measured of units where it is.

    `drawing`: those whose draws are summed with their probabilities, and whether only the first of a unit.
    `shares`: those whose shares follow outcomes in some epoch.
    """

    rewards: Mapping[int, Rule]
    measures: Mapping[int, Measures]
    drawing: Mapping[int, bool]
    n_variants: Mapping[int, int]
    shares: Mapping[int, Shares]

    def check(self, bodies: NDArray[np.void]) -> None:
        """Raise UndecodableEntry for a variant that its experiment does not have."""
        if not len(bodies) or bodies["variant"].max() < min(self.n_variants.values()):
            return
        for experiment_id, n_variants in self.n_variants.items():
            variants = bodies["variant"][bodies["experiment_id"] == experiment_id]
            if (variants >= n_variants).any():
                raise UndecodableEntry(
                    f"experiment {experiment_id} has variants 0 to {n_variants - 1}; got {variants.max()}"
                )


async def _rules(cursor: AsyncCursor, experiment_ids: Collection[int]) -> Rules:
    kinds = {"kinds": list(LEARNING_KINDS), "moving": list(MOVING_KINDS)}
    await cursor.execute(_RULES, {"ids": list(experiment_ids), **kinds})
    rules, measures, drawing, n_variants, shares = {}, {}, {}, {}, {}
    for row in await cursor.fetchall():
        experiment_id, reward, by_unit, learns, metrics, plan, stickiness, draws, variants, epochs = row
        n_variants[experiment_id] = variants
        defined = msgspec.convert(reward, Reward)
        declared = msgspec.convert(metrics or (), tuple[Metric, ...])
        signals = signals_of(defined, declared)
        rules[experiment_id] = Rule.of(defined, by_unit=by_unit, learns=learns, signals=signals)
        if metrics or plan or stickiness != "none":
            found = measures_of(declared, msgspec.convert(plan or {}, AnalysisPlan), stickiness)
            if found is not None:
                measures[experiment_id] = found
        if draws:
            drawing[experiment_id] = stickiness != "none"
        if epochs:
            shares[experiment_id] = Shares(variants, {int(epoch): at for epoch, at in epochs.items()})
    return Rules(rules, measures, drawing, n_variants, shares)


async def _resolve_affected(cursor: AsyncCursor, *, silent_until_us: float = -math.inf) -> list[int]:
    """Lock and resolve what stands in `affected`. Returns the experiments whose totals changed."""
    assignments = await lock_affected(cursor)
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
    new = before["exposed"] & ~before["counted"]
    measured = before["exposed"] & np.isin(before["experiment_id"], list(rules.measures))
    touching = np.flatnonzero(measured & (logged.resolving | new))
    touched = await touch_units(cursor, before[touching], rules.measures, rules.shares)
    unread = logged.unread.copy()
    unread[touching] |= touched.heard[touched.number]
    given = await _read_log(cursor, logged, logged.resolving & unread)
    resolved = resolve(before, given, rules.rewards, silent_until_us=silent_until_us)
    after = np.where(logged.resolving, resolved, before)
    changed = (after["outcome"] != before["outcome"]) | (after["reward"] != before["reward"])
    learned = await learn(cursor, before, after, [one for one, rule in rules.rewards.items() if rule.learns])
    await copy(cursor, "staged_rewards", _reward_rows(after[changed]))
    if changed.any():
        await cursor.execute(_STORE_REWARDS)
    hears = [one for one, measures in rules.measures.items() if measures.reads_silence]
    hearing = np.isin(after["experiment_id"], hears)
    waiting = after["exposed"] & (after["outcome"] == PENDING) & (changed | new) | (hearing & new)
    await copy(cursor, "overdue_assignments", _key_rows(after[waiting & (after["deadline_us"] <= passed_us)]))
    contexts = _contexts(logged, touching, rules.measures)
    told = given.about(touching)
    moved_units = await move_units(
        cursor,
        touched,
        after[touching],
        told,
        contexts=contexts,
        measures=rules.measures,
        shares=rules.shares,
    )
    unmeasured = {one: shares for one, shares in rules.shares.items() if one not in rules.measures}
    await move_strata(cursor, of_rewards(before, after, unmeasured))
    totals_changed = await _add_to_totals(cursor, differences(before, after))
    only_besides = sorted((learned | moved_units).difference(totals_changed))
    if only_besides:
        await cursor.execute(_WANT, (only_besides,))
    return sorted([*totals_changed, *only_besides])


def _contexts(logged: Logged, touching: Integers, measures: Mapping[int, Measures]) -> Contexts | None:
    """Of those of the touched assignments, by their index among these, whose exposure has just come."""
    if logged.exposures is None or not any(one.reads_contexts for one in measures.values()):
        return None if logged.exposures is None else {}
    fresh = np.flatnonzero((touching < len(logged.exposures)) & ~logged.assignments["counted"][touching])
    exposures = zip(
        fresh.tolist(), (logged.exposures[place] for place in touching[fresh].tolist()), strict=True
    )
    return {number: exposure.context for number, exposure in exposures if exposure is not None}


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
