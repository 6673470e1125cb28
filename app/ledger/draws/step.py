"""Draws and their probabilities in the ledger's transaction, for the check of the split.

Without stickiness each assignment is a draw. With it a unit is drawn for once: its hash is new with its first
exposure in the experiment, and falls on each variant with the weight then in force, whatever happened before.
Where it is seen again, also in a later epoch, it goes where the same hash lies, and tells nothing new.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncCursor

from app.core import locks
from app.experiments.policies import KINDS
from app.ledger.session import sql

_ADD_TO_DRAWS: Final = sql(__package__, "add_to_draws")
_RECOUNT_DRAWS: Final = sql(__package__, "recount_draws")
_READ_FIRST_EXPOSURES: Final = sql(__package__, "read_first_exposures")
_VARIANTS: Final = 256
_VERSIONS: Final = 2**32

MOVING_KINDS: Final = tuple(kind for kind, rule in KINDS.items() if rule.reads not in {"nothing", "contexts"})
"""Kinds of policies whose shares move, and are those of every request.

The draws of a fixed policy are in the totals. Policies that read contexts have shares for each request.
"""


async def add_draws(cursor: AsyncCursor, fresh: NDArray[np.void], drawing: Mapping[int, bool]) -> None:
    """Add assignments that are counted for the first time: `fresh` are their bodies, of any experiments.

    They are stored already. `drawing` are the experiments whose draws are summed, and whether by unit.
    """
    fresh = fresh[np.isin(fresh["experiment_id"], list(drawing))]
    by_unit = np.isin(fresh["experiment_id"], [one for one, unit in drawing.items() if unit])
    experiments = np.array(sorted(drawing), np.int64)
    added = _codes(fresh[~by_unit], experiments)
    first, no_more = await _first_exposures(cursor, fresh[by_unit], experiments)
    codes, place = np.unique(np.concatenate([added, first, no_more]), return_inverse=True)
    signs = np.concatenate([np.ones(len(added) + len(first)), -np.ones(len(no_more))])
    counts = np.bincount(place, signs, minlength=len(codes)).astype(np.int64)
    codes, counts = codes[counts != 0], counts[counts != 0]
    if not len(codes):
        return
    await cursor.execute(
        _ADD_TO_DRAWS,
        {
            "experiment_id": experiments[codes // _VARIANTS // _VERSIONS].tolist(),
            "version": (codes // _VARIANTS % _VERSIONS).tolist(),
            "variant": (codes % _VARIANTS).tolist(),
            "assignments": counts.tolist(),
            "kinds": list(MOVING_KINDS),
        },
    )


def _codes(bodies: NDArray[np.void], experiments: NDArray[np.int64]) -> NDArray[np.int64]:
    """Experiment (its place in order), version and variant in one number."""
    experiment = np.searchsorted(experiments, bodies["experiment_id"])
    code: NDArray[np.int64] = (experiment * _VERSIONS + bodies["policy_version"]) * _VARIANTS
    code += bodies["variant"]
    return code


async def _first_exposures(
    cursor: AsyncCursor, fresh: NDArray[np.void], experiments: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The codes of exposures that are now the first of their units, and of those that are it no more.

    Exposures may arrive in any order. From the lock on there is one transaction at a time, so that each sees
    what the others have stored.
    """
    if not len(fresh):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    for experiment_id in np.unique(fresh["experiment_id"]).tolist():
        await cursor.execute(locks.LOCK_MEMBER, (locks.FIRST_EXPOSURES, experiment_id))
    # Bodies come in key order: the first of each unit is its earliest.
    units = np.stack([fresh["experiment_id"].astype(np.int64), fresh["unit_hash"].astype(np.int64)])
    starts = np.flatnonzero(np.append(True, (np.diff(units) != 0).any(axis=0)))
    earliest = fresh[starts]
    ids = np.array([UUID(bytes=one.tobytes()) for one in fresh["id"]], object)
    await cursor.execute(
        _READ_FIRST_EXPOSURES,
        {
            "experiment_id": earliest["experiment_id"].tolist(),
            "unit_hash": earliest["unit_hash"].tolist(),
            "id": ids[starts].tolist(),
            "ids": [_array(own.tolist()) for own in np.split(ids, starts[1:])],
        },
    )
    found = await cursor.fetchall()
    first = earliest[[number - 1 for number, _, _ in found]]
    replaced = [place for place, (_, version, _) in enumerate(found) if version is not None]
    was = first[replaced].copy()
    was["policy_version"] = [found[place][1] for place in replaced]
    was["variant"] = [found[place][2] for place in replaced]
    return _codes(first, experiments), _codes(was, experiments)


def _array(ids: Sequence[UUID]) -> str:
    """As PostgreSQL writes an array."""
    return "{" + ",".join(map(str, ids)) + "}"


async def recount_draws(cursor: AsyncCursor, experiment_id: int, *, by_unit: bool) -> list[tuple[int, int]]:
    """Set the draws of an experiment to what its log says. Returns (epoch, variant) of those that differed.

    Epochs of which a version was thinned away stay as they are. Nobody else may add meanwhile.
    """
    await cursor.execute(
        _RECOUNT_DRAWS, {"experiment_id": experiment_id, "by_unit": by_unit, "kinds": list(MOVING_KINDS)}
    )
    return sorted(await cursor.fetchall())
