"""Totals as the ledger commits them, without the events behind them."""

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from app.experiments.model import Experiment
from app.experiments.tables import publications
from app.ledger.tables import totals

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
        await connection.execute(
            publications.update()
            .where(publications.c.experiment_id == experiment.id)
            .values(wanted=publications.c.wanted + 1)
        )
