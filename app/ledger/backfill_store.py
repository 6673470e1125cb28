"""One round of a backfill. Every transaction of it leaves totals that are right."""

from functools import partial

from app.ledger.backfill_step import Progress, finish, measure_next, recount_read_signals
from app.ledger.store import LedgerStore


async def advance_backfill(store: LedgerStore, experiment_id: int) -> Progress | None:
    """Measure the next assignments of an experiment; at the end of the log finish its backfill.

    Return None if there is nothing to do, or if another worker is at it.
    """
    progress = await store.transact(partial(measure_next, experiment_id=experiment_id))
    if progress is not None and progress.at_end:
        async with store.scanning() as cursor:
            await recount_read_signals(cursor, experiment_id)
        await store.transact(partial(finish, experiment_id=experiment_id, now=store.now()))
    return progress


async def complete_backfill(store: LedgerStore, experiment_id: int) -> None:
    """Finish the backfill of an experiment, if it has one that no other worker is at."""
    while await advance_backfill(store, experiment_id) is not None:
        pass
