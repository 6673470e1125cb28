"""The step that finds out what a transaction is about: locks of its experiments, and their rules."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncCursor

from app.core import locks
from app.experiments.layouts import Layout, Layouts
from app.experiments.metrics import Metric
from app.experiments.plan import AnalysisPlan
from app.experiments.reward import Reward
from app.experiments.signals import signals_of
from app.ledger.draws.step import MOVING_KINDS
from app.ledger.learning.model import LEARNING_KINDS
from app.ledger.log.batch import Batch, UndecodableEntry
from app.ledger.rewards.model import Rule
from app.ledger.session import sql
from app.ledger.units.measures import Measures, measures_of
from app.ledger.units.strata import Shares

_READ_RULES: Final = sql(__package__, "read_rules")
_UNIT_LOCKS: Final = 64


class Rules(NamedTuple):
    """What the ledger computes for some experiments that exist.

    `rewards`: how signals become rewards. `measures`: what is measured of units, where anything is.
    `drawing`: the experiments whose draws are summed, and whether only a unit's first draw counts.
    `shares`: the experiments in which shares may follow outcomes.
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


async def lock_experiments(cursor: AsyncCursor, batch: Batch) -> None:
    """Keep signals by unit and new exposures of one experiment out of concurrent transactions.

    Otherwise an exposure could take over signals that it does not see. Exposures do not exclude
    each other. Experiments share a bounded number of locks, which are taken in order.
    """
    exclusive = {experiment_id % _UNIT_LOCKS for experiment_id in batch.unit_experiment_ids}
    for number in sorted({experiment_id % _UNIT_LOCKS for experiment_id in batch.experiment_ids}):
        statement = locks.LOCK_MEMBER if number in exclusive else locks.LOCK_MEMBER_SHARED
        await cursor.execute(statement, (locks.UNIT_SIGNALS, number))


async def lock_layouts(cursor: AsyncCursor, experiment_ids: Iterable[int] | None) -> None:
    """Lock what is measured of these experiments until the transaction ends; None: of all.

    Call this before the rules are read and before any row is locked.
    """
    groups = (
        range(locks.LAYOUT_NONE, locks.LAYOUT_GROUPS)
        if experiment_ids is None
        else sorted({locks.layout_group(experiment_id) for experiment_id in experiment_ids})
    )
    await cursor.execute(locks.LOCK_MEMBERS_SHARED, (locks.LAYOUTS, list(groups)))


async def read_rules(cursor: AsyncCursor, experiment_ids: Collection[int]) -> Rules:
    """Read the rules of those of these experiments that exist."""
    kinds = {"kinds": list(LEARNING_KINDS), "moving": list(MOVING_KINDS)}
    await cursor.execute(_READ_RULES, {"ids": list(experiment_ids), **kinds})
    rewards, measures, drawing, n_variants, shares = {}, {}, {}, {}, {}
    for row in await cursor.fetchall():
        experiment_id, reward, by_unit, learns, metrics, plan, stickiness, draws, variants, epochs = row[:10]
        layouts = Layouts(row[10], msgspec.convert(row[11], tuple[Layout, ...]))
        n_variants[experiment_id] = variants
        definition = msgspec.convert(reward, Reward)
        declared = msgspec.convert(metrics or (), tuple[Metric, ...])
        rewards[experiment_id] = Rule.of(
            definition, by_unit=by_unit, learns=learns, signals=signals_of(definition, declared)
        )
        if metrics or plan or stickiness != "none" or layouts.present > 1:
            declared_plan = msgspec.convert(plan or {}, AnalysisPlan)
            measured = measures_of(declared, declared_plan, stickiness or "none", layouts)
            if measured is not None:
                measures[experiment_id] = measured
        if draws:
            drawing[experiment_id] = stickiness != "none"
        if epochs:
            shares[experiment_id] = Shares({int(epoch): (n, at) for epoch, (n, at) in epochs.items()})
    return Rules(rewards, measures, drawing, n_variants, shares)
