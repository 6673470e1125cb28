"""The step that counts draws and their probabilities, for the check for sample ratio mismatch.

Without stickiness each assignment is a draw. With stickiness a unit is drawn once, at its first exposure
in the experiment: its hash selects each variant with the weight in force at that time. Later exposures
of the unit, also in later epochs, use the same hash and are not independent draws.
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
"""Kinds of policies whose shares move and are the same for all requests.

The draws of a fixed policy are in the totals. Policies that read contexts have different shares per request.
"""


async def add_draws(cursor: AsyncCursor, fresh: NDArray[np.void], drawing: Mapping[int, bool]) -> None:
    """Add stored assignments that are counted for the first time; `fresh` has their bodies.

    `drawing` has the experiments whose draws are summed, and whether only a unit's first draw counts.
    """
    fresh = fresh[np.isin(fresh["experiment_id"], list(drawing))]
    first_only = np.isin(
        fresh["experiment_id"], [experiment_id for experiment_id, by_unit in drawing.items() if by_unit]
    )
    experiments = np.array(sorted(drawing), np.int64)
    added = _codes(fresh[~first_only], experiments)
    first, replaced = await _first_exposures(cursor, fresh[first_only], experiments)
    codes, place = np.unique(np.concatenate([added, first, replaced]), return_inverse=True)
    signs = np.concatenate([np.ones(len(added) + len(first)), -np.ones(len(replaced))])
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
    """Encode experiment (its position in `experiments`), version and variant as one number."""
    experiment = np.searchsorted(experiments, bodies["experiment_id"])
    code: NDArray[np.int64] = (experiment * _VERSIONS + bodies["policy_version"]) * _VARIANTS
    code += bodies["variant"]
    return code


async def _first_exposures(
    cursor: AsyncCursor, fresh: NDArray[np.void], experiments: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the codes of exposures that are now the first of their units, and of those they replace.

    Exposures may arrive in any order. The lock admits one transaction at a time, so that each sees what
    the others have stored.
    """
    if not len(fresh):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    for experiment_id in np.unique(fresh["experiment_id"]).tolist():
        await cursor.execute(locks.LOCK_MEMBER, (locks.FIRST_EXPOSURES, experiment_id))
    # Bodies come in key order: the first of each unit is its earliest.
    units = np.stack([fresh["experiment_id"].astype(np.int64), fresh["unit_hash"].astype(np.int64)])
    starts = np.flatnonzero(np.append(True, (np.diff(units) != 0).any(axis=0)))
    earliest = fresh[starts]
    ids = np.array([UUID(bytes=raw.tobytes()) for raw in fresh["id"]], object)
    await cursor.execute(
        _READ_FIRST_EXPOSURES,
        {
            "experiment_id": earliest["experiment_id"].tolist(),
            "unit_hash": earliest["unit_hash"].tolist(),
            "id": ids[starts].tolist(),
            "ids": [_array(unit_ids.tolist()) for unit_ids in np.split(ids, starts[1:])],
        },
    )
    first_exposures = await cursor.fetchall()
    first = earliest[[number - 1 for number, _, _ in first_exposures]]
    has_former = [version is not None for _, version, _ in first_exposures]
    former = first[has_former].copy()
    former["policy_version"] = [version for _, version, _ in first_exposures if version is not None]
    former["variant"] = [variant for _, version, variant in first_exposures if version is not None]
    return _codes(first, experiments), _codes(former, experiments)


def _array(ids: Sequence[UUID]) -> str:
    """Format ids as a PostgreSQL array."""
    return "{" + ",".join(map(str, ids)) + "}"


async def recount_draws(cursor: AsyncCursor, experiment_id: int, *, by_unit: bool) -> list[tuple[int, int]]:
    """Set an experiment's draws to what its log gives, under a lock on `draws`.

    Epochs with a version that was thinned away stay as they are. Return (epoch, variant) of the draws
    that differed.
    """
    await cursor.execute(
        _RECOUNT_DRAWS, {"experiment_id": experiment_id, "by_unit": by_unit, "kinds": list(MOVING_KINDS)}
    )
    return sorted(await cursor.fetchall())
