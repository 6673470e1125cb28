"""The step that adds differences of rewards to the totals of variants."""

from collections.abc import Sequence
from typing import Final

from psycopg import AsyncCursor

from app.ledger.rewards.model import Difference
from app.ledger.session import sql

_ADD_TO_TOTALS: Final = sql(__package__, "add_to_totals")
_RECOUNT_TOTALS: Final = sql(__package__, "recount_totals")

TotalsRow = tuple[int, ...]
"""Assignments, rewards, censored, sum of rewards (nano), sum of their squares."""


async def add_to_totals(cursor: AsyncCursor, differences: Sequence[Difference]) -> set[int]:
    """Add differences to the totals, and return the experiments whose totals changed."""
    if differences:
        columns = zip(Difference._fields, map(list, zip(*differences, strict=True)), strict=True)
        await cursor.execute(_ADD_TO_TOTALS, dict(columns))
    return {difference.experiment_id for difference in differences}


async def recount_totals(
    cursor: AsyncCursor, experiment_id: int
) -> list[tuple[int, int, TotalsRow, TotalsRow]]:
    """Set an experiment's totals to what its log gives, under a lock on `totals`.

    Return (epoch, variant, before, after) of the totals that differed.
    """
    await cursor.execute(_RECOUNT_TOTALS, {"experiment_id": experiment_id})
    return [
        (epoch, variant, tuple(map(int, before)), tuple(map(int, after)))
        for epoch, variant, before, after in await cursor.fetchall()
    ]
