"""Judgements in PostgreSQL: wanted, claimed by workers, judged or given up, and sent as signals."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from importlib.resources import files
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import Row, Uuid, any_, exists, func, insert, literal, literal_column, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.experiments.tables import experiments
from app.jobs.queue_store import Claimed, JobQueue
from app.judging import limits
from app.judging.judges.model import Attempt, VersionHash
from app.judging.model import Candidate, Judgement, JudgingRule, State, judgement_id
from app.judging.sampling import is_repeated
from app.judging.tables import judge_versions, judgement_attempts, judgements
from app.judging.trust import Trust
from app.responses.store import hold, release
from app.responses.tables import response_keys

HOLDER: Final = "judging"
"""Name under which judging holds responses until they are judged."""

_J: Final = judgements.c
_QUEUE: Final = JobQueue(
    judgements,
    lane="rule_id",
    lanes="SELECT * FROM unnest(CAST(:rules AS int[]), CAST(:leases AS bigint[]))",
    order_in_lane="priority DESC, next_attempt_at",
    order="priority DESC, next_attempt_at",
)
_FOLDER: Final = files(__package__)
_RELEASABLE: Final = text(_FOLDER.joinpath("sql/releasable.sql").read_text())
_LATE: Final = text(_FOLDER.joinpath("sql/late.sql").read_text())
_COLUMNS: Final = [_J[name] for name in Judgement.__struct_fields__]


class Job(NamedTuple):
    """A claimed judgement: what its judge must read, and for which rule."""

    id: UUID
    attempt: int
    step: int
    version: VersionHash
    rule_id: int
    variant: int
    response_key: UUID
    repetition: int

    @property
    def claimed(self) -> Claimed:
        """The job as the queue knows it."""
        return Claimed(self.id, self.attempt)


class DueSignal(NamedTuple):
    """A score of a promoted version that is not sent yet. `body`: of the assignment id."""

    id: UUID
    judge: str
    response_key: UUID
    score: float
    responded_at: datetime
    body: bytes | None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Columns of a judgement after an attempt."""

    id: UUID
    state: State
    score: float | None = None
    label: int | None = None
    probability: float | None = None
    reason: str | None = None
    detail: str | None = None
    cost_usd: float | None = None
    seconds: float | None = None
    at: datetime | None = None
    step: int = 0
    next_attempt_at: datetime | None = None
    signal: str | None = None


class JudgementStore:
    """SQL of judgements. Methods that take a connection are parts of a transaction of `change`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def change(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction."""
        async with self._engine.begin() as connection:
            yield connection

    async def want(
        self,
        connection: AsyncConnection,
        rule: JudgingRule,
        candidates: Sequence[tuple[str, float, Candidate]],
        *,
        repeats: bool,
        now: datetime,
    ) -> tuple[set[UUID], set[UUID]]:
        """Store judgements that are wanted; return the keys of the responses that are still stored.

        The second set has those of them that were not wanted before. Each candidate has its stratum
        and inclusion probability. With `repeats`, a share of them is wanted twice. A judgement that
        is stored already keeps the greater probability.
        """
        keys = [candidate.response_key for _, _, candidate in candidates]
        stored = await hold(connection, keys, HOLDER) if keys else set()
        rows = [
            row
            for stratum, probability, candidate in candidates
            if candidate.response_key in stored
            for row in _wanted(rule, stratum, probability, candidate, repeats=repeats, now=now)
        ]
        if rows:
            statement = postgresql.insert(judgements).values(rows)
            known = func.greatest(_J.inclusion_probability, statement.excluded.inclusion_probability)
            written = await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=[_J.id], set_={"inclusion_probability": known}
                ).returning(_J.response_key, literal_column("xmax = 0").label("new"))
            )
            return stored, {row.response_key for row in written if row.new}
        return stored, set()

    async def claim(
        self, connection: AsyncConnection, rooms: Mapping[int, int], *, now: datetime, claims_max: int
    ) -> list[Job]:
        """Claim due judgements.

        `rooms` has for each rule how many of them may be leased at a time.
        """
        lanes = {"rules": list(rooms), "leases": list(rooms.values())}
        claimed = await _QUEUE.claim(
            connection, now=now, lease_s=limits.JUDGING_LEASE_S, claims_max=claims_max, lanes=lanes
        )
        if not claimed:
            return []
        names = ("id", "attempts", "step", "version_hash", "rule_id", "variant", "response_key", "repetition")
        statement = select(*(_J[name] for name in names)).where(_J.id.in_([job.id for job in claimed]))
        return [Job(*row) for row in await connection.execute(statement)]

    async def leased(
        self, connection: AsyncConnection, rule_ids: Sequence[int], now: datetime
    ) -> dict[int, int]:
        """Return how many judgements of each rule are being judged."""
        statement = (
            select(_J.rule_id, func.count())
            .where(_J.rule_id.in_(rule_ids), _J.next_attempt_at.is_not(None), _J.leased_until > now)
            .group_by(_J.rule_id)
        )
        return {row[0]: row[1] for row in await connection.execute(statement)}

    async def renew(self, jobs: Sequence[Job], until: datetime) -> None:
        """Lengthen the leases of jobs that run."""
        async with self._engine.begin() as connection:
            await _QUEUE.renew(connection, [job.claimed for job in jobs], until)

    async def lock(self, connection: AsyncConnection, jobs: Sequence[Job]) -> set[UUID]:
        """Lock claimed judgements; return the ids of those that are still ours."""
        return await _QUEUE.lock(connection, [job.claimed for job in jobs])

    async def promoted(self, connection: AsyncConnection, versions: set[VersionHash]) -> set[VersionHash]:
        """Return which versions are promoted. None of them changes before this transaction ends."""
        columns = judge_versions.c
        statement = (
            select(columns.hash, columns.trust)
            .where(columns.hash.in_(sorted(versions)))
            .order_by(columns.hash)
            .with_for_update(read=True)
        )
        rows = await connection.execute(statement)
        return {VersionHash(row.hash) for row in rows if row.trust == Trust.PROMOTED}

    async def settle(
        self,
        connection: AsyncConnection,
        results: Sequence[Result],
        attempts: Sequence[tuple[Job, Sequence[Attempt]]],
    ) -> None:
        """Store the results of locked judgements, and log the calls that were made for them."""
        await _QUEUE.settle(connection, [msgspec.structs.asdict(result) for result in results])
        rows = [
            {"judgement_id": job.id, "attempt": job.attempt, "call": call} | msgspec.structs.asdict(attempt)
            for job, calls in attempts
            for call, attempt in enumerate(calls, start=1)
        ]
        if rows:
            await connection.execute(insert(judgement_attempts), rows)

    async def release(self, connection: AsyncConnection, keys: Sequence[UUID]) -> None:
        """Let responses expire that no judgement waits for."""
        if keys:
            idle = (await connection.scalars(_RELEASABLE, {"keys": sorted(set(keys))})).all()
            await release(connection, idle, HOLDER)

    async def late(self, connection: AsyncConnection, before: datetime, now: datetime) -> list[Job]:
        """Lock some judgements that were wanted before a time and are not leased."""
        parameters = {"before": before, "now": now, "rows_max": limits.JUDGING_SWEEP_ROWS_MAX}
        return [Job(*row) for row in await connection.execute(_LATE, parameters)]

    async def of_rule(self, connection: AsyncConnection, rule_id: int) -> list[Job]:
        """Lock the judgements that a rule wants, those that are being judged included."""
        names = ("id", "attempts", "step", "version_hash", "rule_id", "variant", "response_key", "repetition")
        statement = (
            select(*(_J[name] for name in names))
            .where(_J.rule_id == rule_id, _J.next_attempt_at.is_not(None))
            .order_by(_J.id)
            .with_for_update()
        )
        return [Job(*row) for row in await connection.execute(statement)]

    async def due_signals(self, connection: AsyncConnection) -> list[DueSignal]:
        """Lock scores of promoted versions that are not sent yet.

        The versions stay promoted meanwhile.
        """
        versions, keys = judge_versions.c, response_keys.c
        statement = (
            select(_J.id, versions.name, _J.response_key, _J.score, _J.responded_at, keys.assignment)
            .join(judge_versions, versions.hash == _J.version_hash)
            .outerjoin(response_keys, keys.response_key == _J.response_key)
            .where(_J.signal == "due", versions.trust == Trust.PROMOTED)
            .order_by(_J.at, _J.id)
            .limit(limits.JUDGE_SIGNALS_MAX)
            .with_for_update(of=judgements, skip_locked=True)
        )
        rows = [DueSignal(*row) for row in await connection.execute(statement)]
        if rows:
            judges = sorted({row.judge for row in rows})
            locking = select(versions.hash).where(versions.name.in_(judges), versions.trust == Trust.PROMOTED)
            await connection.execute(locking.with_for_update(read=True))
        return rows

    async def sent(
        self, connection: AsyncConnection, sent: Sequence[UUID], unsendable: Sequence[UUID]
    ) -> None:
        """Note that signals were sent, or that they cannot be sent."""
        for ids, signal in ((sent, "sent"), (unsendable, None)):
            if ids:
                await connection.execute(update(judgements).where(_J.id.in_(ids)).values(signal=signal))

    async def withdraw(self, connection: AsyncConnection, version: VersionHash) -> None:
        """Keep scores of a version that lost its trust from becoming signals."""
        waiting = (_J.signal == "due") & (_J.version_hash == version)
        await connection.execute(update(judgements).where(waiting).values(signal=None))

    async def scores(self, experiment_id: int, version: VersionHash) -> list[Judgement]:
        """Return the scored judgements of an experiment by a version, without repetitions."""
        chosen = (
            (_J.experiment_id == experiment_id)
            & (_J.version_hash == version)
            & (_J.state == State.JUDGED)
            & (_J.repetition == 0)
        )
        return await self._select(chosen)

    async def scores_of_version(self, version: VersionHash, limit: int) -> list[Judgement]:
        """Return the newest scored judgements of a version, with repetitions."""
        chosen = (_J.version_hash == version) & (_J.state == State.JUDGED)
        return await self._select(chosen, limit=limit)

    async def scores_about(self, version: VersionHash, keys: Sequence[UUID]) -> list[Judgement]:
        """Return the scored judgements of a version about some responses, without repetitions."""
        chosen = (
            (_J.version_hash == version)
            & (_J.state == State.JUDGED)
            & (_J.repetition == 0)
            # One array: labels may outnumber the 65,535 parameters of a statement.
            & (_J.response_key == any_(literal(list(keys), postgresql.ARRAY(Uuid))))
        )
        return await self._select(chosen)

    async def experiments_of(self, version: VersionHash) -> list[int]:
        """Return the experiments in which a version has judged responses."""
        judged = exists().where(_J.experiment_id == experiments.c.id, _J.version_hash == version)
        statement = select(experiments.c.id).where(judged)
        async with self._engine.connect() as connection:
            return sorted((await connection.scalars(statement)).all())

    async def n_scores(self, experiment_id: int, version: VersionHash) -> int:
        """Count the judgements of an experiment by a version, in any state."""
        statement = select(func.count()).where(_J.experiment_id == experiment_id, _J.version_hash == version)
        async with self._engine.connect() as connection:
            return int((await connection.execute(statement)).scalar_one())

    async def mean_cost(self, version: VersionHash) -> float | None:
        """Return the mean known cost of a scored judgement of a version; None without one."""
        statement = select(func.avg(_J.cost_usd)).where(_J.version_hash == version)
        async with self._engine.connect() as connection:
            mean = (await connection.execute(statement.where(_J.state == State.JUDGED))).scalar_one()
            return None if mean is None else float(mean)

    async def waiting(self) -> int:
        """Count the judgements that are wanted."""
        async with self._engine.connect() as connection:
            statement = select(func.count()).where(_J.next_attempt_at.is_not(None))
            return int((await connection.execute(statement)).scalar_one())

    async def usage(self, version: VersionHash) -> Row[Any]:
        """Return the numbers of judgements of a version, its calls, their cost and their times."""
        statement = text(_FOLDER.joinpath("sql/usage.sql").read_text())
        async with self._engine.connect() as connection:
            return (await connection.execute(statement, {"version": version})).one()

    async def _select(self, chosen: Any, *, limit: int | None = None) -> list[Judgement]:
        statement = select(*_COLUMNS).where(chosen).order_by(_J.at.desc(), _J.id)
        async with self._engine.connect() as connection:
            rows = await connection.execute(statement if limit is None else statement.limit(limit))
            return [_judgement(row) for row in rows]


def _wanted(
    rule: JudgingRule, stratum: str, probability: float, candidate: Candidate, *, repeats: bool, now: datetime
) -> list[dict[str, Any]]:
    """Return the row of a judgement, and that of its repetition if it has one."""
    first = judgement_id(rule.version_hash, candidate.response_key, 0)
    repetitions = (0, 1) if repeats and is_repeated(first) else (0,)
    return [
        {
            "id": judgement_id(rule.version_hash, candidate.response_key, repetition),
            "version_hash": rule.version_hash,
            "rule_id": rule.id,
            "experiment_id": rule.experiment_id,
            "stratum": stratum,
            "inclusion_probability": probability,
            "repetition": repetition,
            "created_at": now,
            "priority": rule.settings.priority,
            "next_attempt_at": now,
            **msgspec.structs.asdict(candidate),
        }
        for repetition in repetitions
    ]


def _judgement(row: Row[Any]) -> Judgement:
    columns = row._asdict()
    columns["state"] = State(columns["state"])
    return Judgement(**columns)
