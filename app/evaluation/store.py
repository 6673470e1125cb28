"""Rows of the log for evaluation, read in pages."""

from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from app.evaluation import limits
from app.evaluation.model import Log
from app.evaluation.targets import Rows
from app.experiments.model import Experiment
from app.experiments.tables import epochs
from app.ledger.tables import assignments

_PENDING, _CENSORED = 0, 3  # outcomes


class EvaluationStore:
    """SQL of evaluation; reads only."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def log(
        self,
        experiment: Experiment,
        *,
        since: datetime | None,
        until: datetime | None,
        attributes: frozenset[str],
        ripe_at: datetime | None,
    ) -> Log:
        """Read recorded assignments by the hash of their unit, all as of one moment.

        At most `EVALUATION_ROWS_MAX` rows are read. As the hash is keyed with the experiment's
        salt, these are of a random part of the units. Only `attributes` of the contexts are kept.
        With `ripe_at`, only assignments whose deadline has passed by then count. Epochs before the
        last variant was added are left out: they say nothing of it.
        """
        statement = _recorded(experiment, since, until, ripe_at)
        rows: list[tuple[int, int, int, float]] = []
        contexts: list[dict[str, Any]] = []
        read, pending, censored = 0, 0, 0
        last: tuple[int, UUID] | None = None
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            while read < limits.EVALUATION_ROWS_MAX:
                page = (await connection.execute(_after(statement, last))).all()
                read += len(page)
                pending += sum(row.outcome == _PENDING for row in page)
                censored += sum(row.outcome == _CENSORED for row in page)
                rewarded = [row for row in page if row.reward is not None]
                rows += [(row.unit_hash, row.variant, row.reward, row.propensity) for row in rewarded]
                contexts += [_only(attributes, row.context) for row in rewarded]
                if len(page) < limits.EVALUATION_PAGE_ROWS:
                    return Log(_rows(rows, contexts), pending, censored, sampled=False)
                last = (page[-1].unit_hash, page[-1].id)
        return Log(_rows(rows, contexts), pending, censored, sampled=True)


def _recorded(
    experiment: Experiment, since: datetime | None, until: datetime | None, ripe_at: datetime | None
) -> Select[Any]:
    columns = ("unit_hash", "variant", "reward", "propensity", "id", "outcome", "context")
    statement = select(*(assignments.c[name] for name in columns))
    statement = statement.where(assignments.c.experiment_id == experiment.id, assignments.c.exposed)
    fewer = select(func.max(epochs.c.epoch)).where(
        epochs.c.experiment_id == experiment.id,
        epochs.c.n_variants < len(experiment.definition.variants),
    )
    statement = statement.where(assignments.c.epoch > func.coalesce(fewer.scalar_subquery(), 0))
    if since is not None:
        statement = statement.where(assignments.c.assigned_at >= since)
    if until is not None:
        statement = statement.where(assignments.c.assigned_at < until)
    if ripe_at is not None:
        statement = statement.where(assignments.c.deadline <= ripe_at)
    key = (assignments.c.unit_hash, assignments.c.id)
    return statement.order_by(*key).limit(limits.EVALUATION_PAGE_ROWS)


def _after(statement: Select[Any], last: tuple[int, UUID] | None) -> Select[Any]:
    if last is None:
        return statement
    return statement.where(tuple_(assignments.c.unit_hash, assignments.c.id) > tuple_(*last))


def _only(attributes: frozenset[str], context: dict[str, Any] | None) -> dict[str, Any]:
    return {name: context[name] for name in attributes if name in context} if context else {}


def _rows(rows: list[tuple[int, int, int, float]], contexts: list[dict[str, Any]]) -> Rows:
    units, arms, rewards, propensities = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Rows(
        np.array(units, dtype=np.int64),
        np.array(arms, dtype=np.int64),
        np.array(rewards, dtype=np.int64),
        np.array(propensities, dtype=np.float64),
        contexts,
    )
