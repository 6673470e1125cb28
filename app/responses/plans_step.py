"""The step that reads the rules of the experiments of a batch of responses."""

import math
from collections.abc import Collection, Mapping
from datetime import date, timedelta
from typing import Final, NamedTuple

import msgspec
from psycopg import AsyncConnection, AsyncCursor

from app.assignment import snapshot
from app.assignment.snapshot import PreparedExperiment
from app.experiments.metrics import Metric
from app.experiments.model import ResponsePlan
from app.experiments.reward import Reward
from app.experiments.signals import signals_of
from app.ledger.session import sql

_READ_PLANS: Final = sql(__package__, "read_plans")
_DAY_S: Final = 86_400


class Plan(NamedTuple):
    """Rules of one experiment: how long its texts stay, and which signals it reads."""

    days: int
    reads: Collection[str]

    def expires_on(self, today: date) -> date:
        """Return the day on which texts that are stored `today` expire."""
        return today + timedelta(days=self.days + 1)


async def read_plans(connection: AsyncConnection, experiment_ids: Collection[int]) -> Mapping[int, Plan]:
    """Read the rules of those of the experiments that exist.

    Texts stay for the days of retention, and never shorter than the horizon of the reward.
    """
    rows = await connection.execute(_READ_PLANS, {"ids": list(experiment_ids)})
    plans = {}
    for experiment_id, reward, metrics, kept in await rows.fetchall():
        definition = msgspec.convert(reward, Reward)
        declared = msgspec.convert(metrics or (), tuple[Metric, ...])
        retention = msgspec.convert(kept or {}, ResponsePlan).retention_days
        horizon_days = math.ceil(definition.horizon_s / _DAY_S)
        plans[experiment_id] = Plan(max(retention, horizon_days), frozenset(signals_of(definition, declared)))
    return plans


async def read_published(
    cursor: AsyncCursor, experiment_ids: Collection[int]
) -> Mapping[int, PreparedExperiment]:
    """Read what servers know of those of the experiments that are published."""
    await cursor.execute(
        "SELECT experiment_id, body FROM published_experiments WHERE experiment_id = ANY(%s)",
        (list(experiment_ids),),
    )
    return {
        experiment_id: PreparedExperiment(snapshot.decode(body))
        for experiment_id, body in await cursor.fetchall()
    }
