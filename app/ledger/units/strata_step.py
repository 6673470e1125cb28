"""Strata in the ledger's transaction: they move by the differences of their units."""

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
from psycopg import AsyncCursor

from app.ledger import limits
from app.ledger.rewards.model import ASSIGNMENT, NONE
from app.ledger.session import report_unusable, sql
from app.ledger.units.measures import CellTotals, Measures, UnreadableTotals, in_layout, moved
from app.ledger.units.series import add
from app.ledger.units.strata import REWARDS, Shares, StratumKey, of_rewards

_LOCK_SHARE_TOTALS: Final = sql(__package__, "lock_share_totals")
_STORE_SHARE_TOTALS: Final = sql(__package__, "store_share_totals")
_READ_SHARE_TOTALS: Final = "SELECT epoch, stratum, variant, body FROM share_totals WHERE experiment_id = %s"
_REWARDED: Final = """
    SELECT epoch, variant, propensity, (extract(epoch FROM assigned_at) * 1000000)::bigint, reward
    FROM assignments
    WHERE experiment_id = %s AND epoch = ANY(%s) AND exposed AND reward IS NOT NULL
"""
_LOGGED: Final = ("epoch", "variant", "propensity", "assigned_us", "reward")
_KEY: Final = ("experiment_id", "epoch", "stratum", "variant")
_BESIDE: Final = 1
"""1 / propensity stands beside each outcome."""


async def move_strata(
    cursor: AsyncCursor, differences: Mapping[StratumKey, CellTotals], measures: Mapping[int, Measures]
) -> None:
    """Add the differences to the strata. Totals that cannot be read stay as they are."""
    if not differences:
        return
    await cursor.execute(_LOCK_SHARE_TOTALS, _keys(sorted(differences)))
    bodies: dict[StratumKey, bytes] = {}
    for *names, body in await cursor.fetchall():
        key: StratumKey = tuple(names)
        try:
            total = moved(body, differences[key], measures.get(key[0], REWARDS), _BESIDE)
            bodies[key] = b"" if total.empty else total.to_bytes()
        except (ValueError, UnreadableTotals) as error:
            report_unusable("share_totals", key, error)
    await _store(cursor, bodies)


async def recount_strata(
    cursor: AsyncCursor,
    experiment_id: int,
    fresh: Mapping[StratumKey, CellTotals],
    measures: Measures = REWARDS,
) -> list[tuple[int, int]]:
    """Set the strata of an experiment to these, and empty the others. Returns (epoch, variant) that differed.

    The caller's lock keeps others from adding to strata.
    """
    await cursor.execute(_READ_SHARE_TOTALS, (experiment_id,))
    stored: dict[StratumKey, bytes] = {
        (experiment_id, *row[:3]): _in_layout(row[3], measures) for row in await cursor.fetchall()
    }
    right = {
        key: fresh[key].to_bytes() if key in fresh and not fresh[key].empty else b""
        for key in {*fresh, *stored}
    }
    differed = sorted(key for key in right if right[key] != stored.get(key, b""))
    if differed:
        await cursor.execute(_LOCK_SHARE_TOTALS, _keys(differed))
        await _store(cursor, {key: right[key] for key in differed})
    return sorted({(key[1], key[3]) for key in differed})


async def convert_strata(cursor: AsyncCursor, experiment_id: int, measures: Measures) -> None:
    """Bring the strata of an experiment that are in an earlier layout into the present one."""
    await cursor.execute(_READ_SHARE_TOTALS, (experiment_id,))
    outdated: list[StratumKey] = [
        (experiment_id, *row[:3]) for row in await cursor.fetchall() if _in_layout(row[3], measures) != row[3]
    ]
    if outdated:
        await cursor.execute(_LOCK_SHARE_TOTALS, _keys(sorted(outdated)))
        bodies: dict[StratumKey, bytes] = {
            tuple(names): _in_layout(body, measures) for *names, body in await cursor.fetchall()
        }
        await _store(cursor, bodies)


def _in_layout(body: bytes, measures: Measures) -> bytes:
    """Return stored totals in the present layout; no bytes if they are of no units."""
    converted = in_layout(body, measures, _BESIDE)
    is_empty = converted != body and CellTotals.from_bytes(converted).empty
    return b"" if is_empty else converted


async def recount_rewards(cursor: AsyncCursor, experiment_id: int, shares: Shares) -> list[tuple[int, int]]:
    """Set the strata of an experiment that measures nothing but rewards to what its log says.

    Returns and locks as `recount_strata`.
    """
    fresh: dict[StratumKey, CellTotals] = {}
    async with cursor.connection.cursor(name="rewarded") as rewarded:
        await rewarded.execute(_REWARDED, (experiment_id, list(shares.epochs)))
        while page := await rewarded.fetchmany(limits.SWEEP_ASSIGNMENTS_MAX):
            log = np.zeros(len(page), ASSIGNMENT)
            for name, column in zip(_LOGGED, zip(*page, strict=True), strict=True):
                log[name] = column
            log["experiment_id"], log["exposed"] = experiment_id, True
            nothing = log.copy()
            nothing["reward"] = NONE
            for key, totals in of_rewards(nothing, log, {experiment_id: shares}).items():
                add(fresh, key, totals)
    return await recount_strata(cursor, experiment_id, fresh)


async def _store(cursor: AsyncCursor, bodies: Mapping[StratumKey, bytes]) -> None:
    await cursor.execute(_STORE_SHARE_TOTALS, _keys(bodies) | {"body": list(bodies.values())})


def _keys(keys: Collection[StratumKey]) -> dict[str, list[Any]]:
    return {name: [key[place] for key in keys] for place, name in enumerate(_KEY)}
