"""Totals as the ledger commits them, without the events behind them."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.experiments.model import Experiment
from app.experiments.policies import FixedPolicy
from app.experiments.tables import publications
from app.ledger.tables import share_totals, totals
from app.ledger.units.measures import CellTotals

NANO = 10**9


async def record(
    engine: AsyncEngine,
    experiment: Experiment,
    *observed: tuple[int, int],
    epoch: int = 1,
    pending: int = 0,
    censored: int = 0,
) -> None:
    """Add `(rewards, successes)` per variant in one transaction, and note that a publication is due."""
    async with engine.begin() as connection:
        for variant, (rewards, successes) in enumerate(observed):
            added = {
                "assignments": rewards + pending + censored,
                "rewards": rewards,
                "censored": censored,
                "reward_sum": successes * NANO,
                "reward_square_sum": successes * NANO**2,
            }
            statement = insert(totals).values(
                experiment_id=experiment.id, epoch=epoch, variant=variant, **added
            )
            sums = {name: totals.c[name] + statement.excluded[name] for name in added}
            keys = [totals.c.experiment_id, totals.c.epoch, totals.c.variant]
            await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=sums))
            if not isinstance(experiment.definition.policy, FixedPolicy) and rewards:
                await _draw(connection, (experiment.id, epoch, STRATUM, variant), rewards, successes)
        await connection.execute(
            publications.update()
            .where(publications.c.experiment_id == experiment.id)
            .values(wanted=publications.c.wanted + 1)
        )


STRATUM = 32
"""Shares of 1/2, as all recorded units are drawn with."""


async def _draw(
    connection: AsyncConnection, key: tuple[int, int, int, int], rewards: int, successes: int
) -> None:
    """Add units to their stratum."""
    names = ("experiment_id", "epoch", "stratum", "variant")
    hits, weight = successes * NANO, 2 * NANO
    products = hits * NANO, hits * weight, rewards * weight**2
    added = CellTotals(rewards, ((rewards, hits, rewards * weight, *products),))
    where = [share_totals.c[name] == value for name, value in zip(names, key, strict=True)]
    body = await connection.scalar(select(share_totals.c.body).where(*where))
    if body is not None:
        added += CellTotals.from_bytes(body)
        await connection.execute(share_totals.update().where(*where).values(body=added.to_bytes()))
        return
    row = dict(zip(names, key, strict=True)) | {"body": added.to_bytes()}
    await connection.execute(share_totals.insert().values(**row))
