"""Draws and their probabilities in the ledger's transaction, for the check of the split."""

from collections.abc import Collection
from typing import Final

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncCursor

from app.feedback.session import sql

_ADD_TO_DRAWS: Final = sql("add_to_draws")
_RECOUNT_DRAWS: Final = sql("recount_draws")
_VARIANTS: Final = 256
_VERSIONS: Final = 2**32

MOVING_KINDS: Final = (
    "thompson",
    "optimistic_thompson",
    "top_two",
    "constrained_thompson",
    "ucb",
    "epsilon_greedy",
    "best_arm",
    "exp3_ix",
)
"""Kinds of policies whose shares move, and are those of every request.

The draws of a fixed policy are in the totals. Policies that read contexts have shares for each request.
"""


async def add_draws(cursor: AsyncCursor, drawn: NDArray[np.void], experiment_ids: Collection[int]) -> None:
    """Add assignments that are counted for the first time: `drawn` are their bodies, of any experiments."""
    drawn = drawn[np.isin(drawn["experiment_id"], list(experiment_ids))]
    if not len(drawn):
        return
    experiments, experiment = np.unique(drawn["experiment_id"], return_inverse=True)
    code = (experiment * _VERSIONS + drawn["policy_version"]) * _VARIANTS + drawn["variant"]
    codes, counts = np.unique(code, return_counts=True)
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


async def recount_draws(cursor: AsyncCursor, experiment_id: int) -> list[tuple[int, int]]:
    """Set the draws of an experiment to what its log says. Returns (epoch, variant) of those that differed.

    Epochs of which a version was thinned away stay as they are. Nobody else may add meanwhile.
    """
    await cursor.execute(_RECOUNT_DRAWS, {"experiment_id": experiment_id, "kinds": list(MOVING_KINDS)})
    return sorted(await cursor.fetchall())
