"""The rebuild: recomputes every total from the log, and reports what differed."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

import msgspec
from psycopg import AsyncCursor

from app.experiments.publication_store import request_publications
from app.ledger import limits
from app.ledger.backfill_store import complete_backfill
from app.ledger.draws.step import recount_draws
from app.ledger.learning.step import recount_learned
from app.ledger.scope import lock_layouts, read_rules
from app.ledger.session import sql
from app.ledger.signals.step import recount_signals
from app.ledger.store import LedgerStore
from app.ledger.totals.step import recount_totals
from app.ledger.transaction import revise_affected
from app.ledger.units.step import recount_units
from app.ledger.units.strata_step import recount_rewards

_AFFECT_RANGE: Final = sql(__package__, "affect_range")
_PUBLISHED: Final = ("totals", "policy_totals", "metric_totals")
"""Tables from which allocations are computed."""

_TEXTS: Final = {
    "totals": "its totals differed from its log",
    "policy_totals": "what its policy learned differed from its log",
    "metric_totals": "the totals of its metrics differed from its units",
    "metric_series": "its series differed from its units",
    "share_totals": "its strata of shares differed from its units",
    "draws": "its draws and their probabilities differed from its log",
    "signal_totals": "the totals of a signal differed from its log",
    "assignments": "a stored reward differed from its signals",
}


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rows of a table that differed from the log, and are right now.

    `detail` is the segment of a cell (and whether its units crossed over), the name of a signal, or the
    totals before and after.
    """

    table: str
    experiment_id: int
    epoch: int | None = None
    variant: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        place = "" if self.epoch is None else f", epoch {self.epoch}, variant {self.variant}"
        detail = f" ({self.detail})" if self.detail else ""
        return f"experiment {self.experiment_id}{place}: {_TEXTS[self.table]}{detail}"


async def rebuild_totals(database_url: str, experiment_ids: Sequence[int] | None = None) -> list[Difference]:
    """Recompute every reward from the signals and all totals from the assignments; None: of all experiments.

    Return what differed: nothing if log and totals agree bit for bit. The ledger may run at the same time; it
    waits for a moment per experiment and table.
    """
    differences: list[Difference] = []
    async with LedgerStore.open(database_url) as store:
        if experiment_ids is None:
            experiment_ids = await store.transact(_experiment_ids)
        for experiment_id in experiment_ids:
            differences += await _recount(store, experiment_id)
            if await _revise_all(store, experiment_id):
                differences.append(Difference("assignments", experiment_id))
    return differences


async def _experiment_ids(cursor: AsyncCursor) -> list[int]:
    await cursor.execute("SELECT id FROM experiments ORDER BY id")
    return [experiment_id for (experiment_id,) in await cursor.fetchall()]


async def _recount(store: LedgerStore, experiment_id: int) -> list[Difference]:
    """Set all totals of an experiment to its log, each table in its own transaction.

    If metrics have changed, the units are measured first.
    """
    await complete_backfill(store, experiment_id)
    rules = await store.transact(partial(read_rules, experiment_ids=[experiment_id]))
    rule = rules.rewards.get(experiment_id)
    differences: list[Difference] = []

    async def note(table: str, cursor: AsyncCursor, keys: Iterable[tuple[Any, ...]]) -> None:
        """Note differences, and request a publication if it reads the table."""
        noted = [Difference(table, experiment_id, *key) for key in keys]
        differences.extend(noted)
        if noted and table in _PUBLISHED:
            await request_publications(cursor, [experiment_id])

    async with store.rebuilding(experiment_id, "totals") as cursor:
        totals = await recount_totals(cursor, experiment_id)
        keys = [(epoch, variant, f"{before} became {after}") for epoch, variant, before, after in totals]
        await note("totals", cursor, keys)
    if rule is not None and rule.learns:
        async with store.rebuilding(experiment_id, "policy_totals") as cursor:
            await note("policy_totals", cursor, await recount_learned(cursor, experiment_id))
    if experiment_id in rules.drawing:
        async with store.rebuilding(experiment_id, "draws") as cursor:
            by_unit = rules.drawing[experiment_id]
            await note("draws", cursor, await recount_draws(cursor, experiment_id, by_unit=by_unit))
    async with store.rebuilding(experiment_id, "metric_totals", "metric_series", "share_totals") as cursor:
        rules = await read_rules(cursor, [experiment_id])
        measures = rules.measures.get(experiment_id)
        if measures is not None:
            cells, series, strata = await recount_units(cursor, experiment_id, measures)
            keys = [(*key[1:3], key[3] + " crossed over" * key[4]) for key in cells]
            await note("metric_totals", cursor, keys)
            await note("metric_series", cursor, series)
            await note("share_totals", cursor, strata)
        elif experiment_id in rules.shares:
            strata = await recount_rewards(cursor, experiment_id, rules.shares[experiment_id])
            await note("share_totals", cursor, strata)
    if rule is not None:
        async with store.rebuilding(experiment_id, "signal_totals") as cursor:
            names = await recount_signals(cursor, experiment_id, rule.signals)
            await note("signal_totals", cursor, [(None, None, name) for name in names])
    return differences


async def _revise_all(store: LedgerStore, experiment_id: int) -> bool:
    """Revise all assignments, a bounded number at a time. Return whether any reward or unit changed."""
    changed = False
    last: tuple[int, UUID] | None = (-(2**63), UUID(int=0))
    while last is not None:
        work = partial(_revise_range, experiment_id=experiment_id, after=last)
        last, differed = await store.transact(work)
        changed |= differed
    return changed


async def _revise_range(
    cursor: AsyncCursor, *, experiment_id: int, after: tuple[int, UUID]
) -> tuple[tuple[int, UUID] | None, bool]:
    """Revise a bounded number of assignments behind (unit hash, id).

    Return the last of them, None if there were none, and whether totals changed.
    """
    unit_hash, assignment_id = after
    await lock_layouts(cursor, [experiment_id])
    await cursor.execute(
        _AFFECT_RANGE,
        {
            "experiment_id": experiment_id,
            "unit_hash": unit_hash,
            "id": assignment_id,
            "rows_max": limits.SWEEP_ASSIGNMENTS_MAX,
        },
    )
    keys: list[tuple[int, UUID]] = await cursor.fetchall()
    return max(keys, default=None), bool(await revise_affected(cursor))
