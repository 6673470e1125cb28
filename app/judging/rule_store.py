"""Judging rules in PostgreSQL: their settings, windows, reservoirs, counts and spending."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from importlib.resources import files
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Row, delete, func, insert, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core import locks
from app.core.errors import Conflict, NotFound
from app.experiments.model import Experiment
from app.experiments.store import experiment_of
from app.experiments.tables import experiments
from app.judging import limits
from app.judging.budget import Spending
from app.judging.judges.model import VersionHash
from app.judging.model import Candidate, JudgingRule, RuleSettings
from app.judging.tables import (
    judging_counts,
    judging_reservoirs,
    judging_rules,
    judging_spending,
    judging_windows,
)
from app.responses.tables import response_keys, responses

Counts = Counter[tuple[int, str]]
"""Numbers of responses by (variant, outcome)."""

_R: Final = judging_rules.c
_PRUNE: Final = text(files(__package__).joinpath("sql/prune_reservoirs.sql").read_text())
_NO_CURSOR: Final = 0


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The window of a stratum.

    `seen` counts the responses of it, and `total` those of all windows before and with it.
    """

    stratum: str
    number: int
    closes_at: datetime
    seen: int
    rate: float
    total: int


class Kept(NamedTuple):
    """A candidate in a reservoir, with its point."""

    stratum: str
    point: int
    candidate: Candidate


class RuleStore:
    """SQL of rules. Methods that take a connection are parts of a transaction of `change`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def change(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction."""
        async with self._engine.begin() as connection:
            yield connection

    async def insert(
        self,
        *,
        experiment_id: int,
        version: VersionHash,
        settings: RuleSettings,
        since: datetime | None,
        at: datetime,
    ) -> JudgingRule:
        """Store a rule. A live one reads the responses that are stored from now on.

        Raises Conflict if there are too many, or another live rule has the version.
        """
        async with self._engine.begin() as connection:
            await connection.execute(locks.transaction_lock(locks.RULE_CREATION))
            await _check_room(connection, experiment_id)
            newest = select(func.coalesce(func.max(response_keys.c.seq), _NO_CURSOR))
            cursor = _NO_CURSOR if since is not None else (await connection.execute(newest)).scalar_one()
            values = {
                "experiment_id": experiment_id,
                "version_hash": version,
                "settings": msgspec.to_builtins(settings),
                "cursor": cursor,
                "since": since,
                "until": None if since is None else at,
                "created_at": at,
            }
            try:
                statement = insert(judging_rules).values(values).returning(judging_rules)
                return rule_of((await connection.execute(statement)).one())
            except IntegrityError as error:
                if "uq_judging_rules_live" not in str(error.orig):
                    raise
                raise Conflict(
                    "another rule of this experiment reads new responses for this version: edit that rule",
                    field="judge",
                ) from error

    async def rules(self, experiment_id: int) -> list[JudgingRule]:
        """Return the rules of an experiment, the oldest first."""
        return await self._select(_R.experiment_id == experiment_id)

    async def rules_of(self, version: VersionHash) -> list[JudgingRule]:
        """Return the rules of a version, the oldest first."""
        return await self._select(_R.version_hash == version)

    async def working(self) -> list[JudgingRule]:
        """Return the rules that are not paused."""
        return await self._select(_R.paused.is_(False))

    async def reading(self) -> list[JudgingRule]:
        """Return the rules that read responses: neither paused nor finished."""
        return await self._select(_R.paused.is_(False) & _R.finished_at.is_(None))

    async def rule(self, experiment_id: int, rule_id: int) -> JudgingRule:
        """Return a rule. Raises NotFound."""
        if 0 < rule_id < 2**31:
            rules = await self._select((_R.experiment_id == experiment_id) & (_R.id == rule_id))
            if rules:
                return rules[0]
        raise _unknown(rule_id)

    async def update(self, experiment_id: int, rule_id: int, changes: Mapping[str, Any]) -> JudgingRule:
        """Replace columns of a rule. Raises NotFound."""
        chosen = (_R.experiment_id == experiment_id) & (_R.id == rule_id)
        if not changes or not 0 < rule_id < 2**31:
            return await self.rule(experiment_id, rule_id)
        async with self._engine.begin() as connection:
            statement = update(judging_rules).where(chosen).values(**changes).returning(judging_rules)
            row = (await connection.execute(statement)).one_or_none()
            if row is None:
                raise _unknown(rule_id)
            return rule_of(row)

    async def delete(self, connection: AsyncConnection, experiment_id: int, rule_id: int) -> None:
        """Delete a rule with its windows and reservoirs. Its judgements stay. Raises NotFound."""
        chosen = (_R.experiment_id == experiment_id) & (_R.id == rule_id)
        known = 0 < rule_id < 2**31
        if not known or (await connection.execute(delete(judging_rules).where(chosen))).rowcount == 0:
            raise _unknown(rule_id)
        for table in (judging_reservoirs, judging_counts, judging_spending):
            await connection.execute(delete(table).where(table.c.rule_id == rule_id))

    async def lock(self, connection: AsyncConnection, rule_id: int) -> JudgingRule | None:
        """Lock a rule; None if another worker has it, or it is gone, paused or finished."""
        statement = (
            select(judging_rules)
            .where(_R.id == rule_id, _R.paused.is_(False), _R.finished_at.is_(None))
            .with_for_update(skip_locked=True)
        )
        row = (await connection.execute(statement)).one_or_none()
        return None if row is None else rule_of(row)

    async def advance(
        self,
        connection: AsyncConnection,
        rule: JudgingRule,
        *,
        cursor: int,
        finished_at: datetime | None,
        drawn: tuple[int, float, int],
    ) -> None:
        """Store the position of a locked rule, and add `drawn`: eligible, mass and selected."""
        eligible, mass, selected = drawn
        await connection.execute(
            update(judging_rules)
            .where(_R.id == rule.id)
            .values(
                cursor=cursor,
                finished_at=finished_at,
                eligible=_R.eligible + eligible,
                mass=_R.mass + mass,
                selected=_R.selected + selected,
            )
        )

    async def count_responses(self, experiment_id: int, since: datetime) -> int:
        """Count the stored responses of an experiment that were received since a time."""
        columns = responses.c
        chosen = (columns.experiment_id == experiment_id) & (columns.received_at >= since)
        statement = select(func.count()).where(chosen, columns.assignment.is_not(None))
        async with self._engine.connect() as connection:
            return int((await connection.execute(statement)).scalar_one())

    async def experiments(self, ids: Sequence[int]) -> dict[int, Experiment]:
        """Return the experiments with these ids."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(experiments).where(experiments.c.id.in_(ids)))
            return {row.id: experiment_of(row) for row in rows}

    async def with_windows_due(self, now: datetime) -> set[int]:
        """Return the ids of the rules that have a window to close."""
        columns = judging_windows.c
        statement = select(columns.rule_id).where(columns.seen > 0, columns.closes_at <= now).distinct()
        async with self._engine.connect() as connection:
            return set((await connection.scalars(statement)).all())

    async def windows(self, connection: AsyncConnection, rule_id: int) -> dict[str, Window]:
        """Return the windows of a locked rule by stratum."""
        columns = judging_windows.c
        rows = await connection.execute(select(judging_windows).where(columns.rule_id == rule_id))
        return {
            row.stratum: Window(
                stratum=row.stratum,
                number=row.number,
                closes_at=row.closes_at,
                seen=row.seen,
                rate=row.rate,
                total=row.total,
            )
            for row in rows
        }

    async def store_windows(
        self, connection: AsyncConnection, rule_id: int, windows: Iterable[Window]
    ) -> None:
        """Store the windows that changed."""
        rows = [{"rule_id": rule_id} | msgspec.structs.asdict(window) for window in windows]
        if rows:
            statement = postgresql.insert(judging_windows).values(rows)
            names = ("number", "closes_at", "seen", "rate", "total")
            await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["rule_id", "stratum"],
                    set_={name: statement.excluded[name] for name in names},
                )
            )

    async def keep(self, connection: AsyncConnection, rule: JudgingRule, kept: Sequence[Kept]) -> None:
        """Add candidates to the reservoirs of a locked rule, and drop those beyond their size."""
        if not kept:
            return
        rows = [
            {"rule_id": rule.id, "stratum": row.stratum, "point": row.point}
            | msgspec.structs.asdict(row.candidate)
            for row in kept
        ]
        await connection.execute(postgresql.insert(judging_reservoirs).on_conflict_do_nothing(), rows)
        await connection.execute(_PRUNE, {"rule_id": rule.id, "reservoir_max": rule.settings.reservoir_max})

    async def take(self, connection: AsyncConnection, rule_id: int, stratum: str, n: int) -> list[Candidate]:
        """Return the `n` candidates of a reservoir with the least points, and empty it."""
        columns = judging_reservoirs.c
        chosen = (columns.rule_id == rule_id) & (columns.stratum == stratum)
        names = Candidate.__struct_fields__
        statement = select(*(columns[name] for name in names)).where(chosen)
        rows = await connection.execute(statement.order_by(columns.point, columns.response_key).limit(n))
        candidates = [Candidate(*row) for row in rows]
        await connection.execute(delete(judging_reservoirs).where(chosen))
        return candidates

    async def count(self, connection: AsyncConnection, rule_id: int, counts: Counts) -> None:
        """Add to the numbers of responses by variant and outcome."""
        rows = [
            {"rule_id": rule_id, "variant": variant, "outcome": outcome, "n": n}
            for (variant, outcome), n in sorted(counts.items())
            if n
        ]
        if rows:
            statement = postgresql.insert(judging_counts).values(rows)
            await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["rule_id", "variant", "outcome"],
                    set_={"n": judging_counts.c.n + statement.excluded.n},
                )
            )

    async def counts(self, rule_ids: Sequence[int]) -> dict[int, Counts]:
        """Return the numbers of responses of each rule, by variant and outcome."""
        columns = judging_counts.c
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(judging_counts).where(columns.rule_id.in_(rule_ids)))
            counts: dict[int, Counts] = {rule_id: Counter() for rule_id in rule_ids}
            for row in rows:
                counts[row.rule_id][row.variant, row.outcome] = row.n
            return counts

    async def eligible_by_variant(self, connection: AsyncConnection, rule_id: int) -> dict[int, int]:
        """Return how many eligible responses of each variant a rule has read."""
        columns = judging_counts.c
        chosen = (columns.rule_id == rule_id) & (columns.outcome == "eligible")
        rows = await connection.execute(select(columns.variant, columns.n).where(chosen))
        return {row.variant: row.n for row in rows}

    async def spend(self, connection: AsyncConnection, rule_id: int, day: date, spending: Spending) -> None:
        """Add to what a rule has used on a day."""
        added = msgspec.structs.asdict(spending)
        if not any(added.values()):
            return
        statement = postgresql.insert(judging_spending).values(rule_id=rule_id, day=day, **added)
        old, new = judging_spending.c, statement.excluded
        sums = {name: old[name] + new[name] for name in added}
        sums["dearest_usd"] = func.greatest(old.dearest_usd, new.dearest_usd)
        await connection.execute(
            statement.on_conflict_do_update(index_elements=["rule_id", "day"], set_=sums)
        )

    async def spending(
        self, connection: AsyncConnection, rule_ids: Sequence[int], day: date
    ) -> dict[int, Spending]:
        """Return what each rule has used on a day."""
        columns = judging_spending.c
        statement = select(judging_spending).where(columns.rule_id.in_(rule_ids), columns.day == day)
        spent = dict.fromkeys(rule_ids, Spending())
        for row in await connection.execute(statement):
            spent[row.rule_id] = _spending(row)
        return spent

    async def lock_budgets(self, connection: AsyncConnection) -> None:
        """Let no other worker use up a budget before this transaction ends."""
        await connection.execute(locks.transaction_lock(locks.JUDGING_BUDGETS))

    async def spending_on(self, rule_ids: Sequence[int], day: date) -> dict[int, Spending]:
        """Return what each rule has used on a day, outside a transaction."""
        async with self._engine.connect() as connection:
            return await self.spending(connection, rule_ids, day)

    async def cost_per_call(self, connection: AsyncConnection, rule_id: int, day: date) -> float | None:
        """Return the mean cost of a priced call in the week before a day; None without one."""
        columns = judging_spending.c
        recent = (columns.rule_id == rule_id) & (columns.day > day - timedelta(days=7))
        statement = select(func.sum(columns.cost_usd), func.sum(columns.calls - columns.unpriced))
        cost, calls = (await connection.execute(statement.where(recent))).one()
        return float(cost) / float(calls) if calls else None

    async def _select(self, chosen: Any) -> list[JudgingRule]:
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(judging_rules).where(chosen).order_by(_R.id))
            return [rule_of(row) for row in rows]


async def _check_room(connection: AsyncConnection, experiment_id: int) -> None:
    owners = list(await connection.scalars(select(_R.experiment_id)))
    if len(owners) >= limits.JUDGING_RULES_MAX:
        raise Conflict(f"there are {limits.JUDGING_RULES_MAX} judging rules already: delete one first")
    if owners.count(experiment_id) >= limits.EXPERIMENT_RULES_MAX:
        raise Conflict(
            f"this experiment has {limits.EXPERIMENT_RULES_MAX} judging rules already: delete one first"
        )


def _unknown(rule_id: int) -> NotFound:
    return NotFound(f"no judging rule of this experiment has the id {rule_id}")


def _spending(row: Row[Any]) -> Spending:
    return Spending(
        planned=row.planned,
        calls=row.calls,
        unpriced=row.unpriced,
        cost_usd=row.cost_usd,
        dearest_usd=row.dearest_usd,
        eligible=row.eligible,
    )


def rule_of(row: Row[Any]) -> JudgingRule:
    """Return the rule of a row that holds all columns of `judging_rules`."""
    return JudgingRule(
        id=row.id,
        experiment_id=row.experiment_id,
        version_hash=VersionHash(row.version_hash),
        settings=msgspec.convert(row.settings, RuleSettings),
        paused=row.paused,
        cursor=row.cursor,
        since=row.since,
        until=row.until,
        finished_at=row.finished_at,
        eligible=row.eligible,
        mass=row.mass,
        selected=row.selected,
        created_at=row.created_at,
    )
