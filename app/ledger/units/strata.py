"""Strata of assignments whose shares were nearly the same: what readouts of adaptive policies compare. Pure.

A unit belongs to the stratum of its first exposed assignment in the epoch, whatever it was assigned to later.
Totals hold the unit's outcomes and 1 / propensity, in nanos, so that they are exact and move by differences.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from app.experiments.plan import AnalysisPlan
from app.ledger.rewards.composite import NANO
from app.ledger.rewards.model import NONE, Assignments, Integers
from app.ledger.units.measures import CellTotals, Measures
from app.ledger.units.model import Units, totals_by_stratum
from stats.concurrent import strata_of_ages, strata_of_shares

StratumKey = tuple[int, int, int, int]
"""Experiment, epoch, stratum and variant."""

REWARDS: Final = Measures.of((), AnalysisPlan())
"""Measures of experiments without metrics: the reward alone."""


class Shares(NamedTuple):
    """The epochs of an experiment in which the shares may follow outcomes.

    Of each the number of variants, and its start in microseconds since 1970.
    """

    epochs: Mapping[int, tuple[int, int]]

    def applied(self, units: Units, firsts: Assignments) -> Units:
        """Return the units with the strata and weights of their first assignments."""
        strata, weights = self.of(firsts)
        return units._replace(strata=strata, weights=weights)

    def of(self, assignments: Assignments) -> tuple[Integers, Integers]:
        """Return the stratum of each assignment (NONE in other epochs) and 1 / propensity in nanos.

        With two variants the propensity gives both shares. With more, strata are periods of time.
        """
        strata = np.full(len(assignments), NONE, np.int64)
        weights = np.zeros(len(assignments), np.int64)
        for epoch, (n_variants, started_us) in self.epochs.items():
            chosen = assignments["epoch"] == epoch
            own = assignments[chosen]
            propensity = own["propensity"]
            if n_variants == 2:
                share = np.where(own["variant"] == 1, propensity, 1 - propensity)
                strata[chosen] = strata_of_shares(share)
            else:
                strata[chosen] = strata_of_ages((own["assigned_us"] - started_us) / 1e6)
            weights[chosen] = np.rint(NANO / propensity).astype(np.int64)
        return strata, weights


def of_rewards(
    before: Assignments, after: Assignments, shares: Mapping[int, Shares]
) -> dict[StratumKey, CellTotals]:
    """Return what the strata of these experiments change by: each assignment with a reward is a unit."""
    was = before["counted"] & before["exposed"] & (before["reward"] != NONE)
    now = after["exposed"] & (after["reward"] != NONE)
    moved = (was != now) | (now & (before["reward"] != after["reward"]))
    found: dict[StratumKey, CellTotals] = {}
    for experiment_id, rule in shares.items():
        ours = moved & (after["experiment_id"] == experiment_id)
        if ours.any():
            gone, come = before[ours & was], after[ours & now]
            signs = np.repeat([1, -1], [len(come), len(gone)])
            units = _rewarded(rule, np.concatenate([come, gone]))
            found |= totals_by_stratum(experiment_id, units, REWARDS, signs)
    return found


def _rewarded(shares: Shares, assignments: Assignments) -> Units:
    columns = (assignments["variant"], assignments["assigned_us"] // 60_000_000, assignments["reward"])
    units = Units.rewarded(*(column.tolist() for column in columns))
    return shares.applied(units._replace(epochs=assignments["epoch"]), assignments)
