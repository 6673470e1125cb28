"""Totals from the log alone: what `wald rebuild` does, and proves."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from app.ledger.store import LedgerStore

TotalsRow = tuple[int, ...]
"""Assignments, rewards, censored, sum of rewards (nano), sum of their squares."""


class TotalsDifference(msgspec.Struct, frozen=True):
    """Totals of a variant in an epoch that were not what the log says, and are now."""

    experiment_id: int
    epoch: int
    variant: int
    before: TotalsRow
    after: TotalsRow


class LearnedDifference(msgspec.Struct, frozen=True):
    """What a policy learned of a variant in an epoch was not what the log says, and is now."""

    experiment_id: int
    epoch: int
    variant: int


class CellDifference(msgspec.Struct, frozen=True):
    """Totals of the units of a cell were not what its units come to, and are now."""

    experiment_id: int
    epoch: int
    variant: int
    segment: str
    crossed: bool


class SeriesDifference(msgspec.Struct, frozen=True):
    """The series of a variant in an epoch were not what its units come to, and are now."""

    experiment_id: int
    epoch: int
    variant: int


class StrataDifference(msgspec.Struct, frozen=True):
    """The strata of a variant in an epoch were not what its units come to, and are now."""

    experiment_id: int
    epoch: int
    variant: int


class DrawsDifference(msgspec.Struct, frozen=True):
    """The draws of a variant in an epoch, or their probabilities, were not what the log says, and are now."""

    experiment_id: int
    epoch: int
    variant: int


class SignalsDifference(msgspec.Struct, frozen=True):
    """The totals of a signal were not what the log says, and are now. The empty name is all other signals."""

    experiment_id: int
    signal: str


class Rebuilt(msgspec.Struct, frozen=True):
    """What a rebuild found wrong; all empty when log and totals agreed bit for bit."""

    totals: tuple[TotalsDifference, ...]
    rewards: tuple[int, ...]
    """Experiments in which a stored reward, or what a unit came to, was not what the signals give."""
    learned: tuple[LearnedDifference, ...] = ()
    cells: tuple[CellDifference, ...] = ()
    draws: tuple[DrawsDifference, ...] = ()
    series: tuple[SeriesDifference, ...] = ()
    signals: tuple[SignalsDifference, ...] = ()
    strata: tuple[StrataDifference, ...] = ()


async def rebuild_totals(database_url: str, experiment_ids: Sequence[int] | None = None) -> Rebuilt:
    """Recompute every reward from the signals and all totals from the assignments; None: of all experiments.

    May run beside the ledger, which waits for a moment per experiment while its totals are added up.
    """
    differences: list[TotalsDifference] = []
    learned: list[LearnedDifference] = []
    cells: list[CellDifference] = []
    draws: list[DrawsDifference] = []
    series: list[SeriesDifference] = []
    signals: list[SignalsDifference] = []
    strata: list[StrataDifference] = []
    corrected = []
    async with LedgerStore.open(database_url) as store:
        for experiment_id in experiment_ids if experiment_ids is not None else await store.experiment_ids():
            for epoch, variant, before, after in await store.recount(experiment_id):
                differences.append(TotalsDifference(experiment_id, epoch, variant, before, after))
            for epoch, variant in await store.recount_learned(experiment_id):
                learned.append(LearnedDifference(experiment_id, epoch, variant))
            for epoch, variant in await store.recount_draws(experiment_id):
                draws.append(DrawsDifference(experiment_id, epoch, variant))
            differed, moved, apart = await store.recount_units(experiment_id)
            cells += [CellDifference(*key) for key in differed]
            series += [SeriesDifference(experiment_id, *one) for one in moved]
            strata += [StrataDifference(experiment_id, *one) for one in apart]
            signals += [
                SignalsDifference(experiment_id, name) for name in await store.recount_signals(experiment_id)
            ]
            if await _resolve_all(store, experiment_id):
                corrected.append(experiment_id)
    found = (tuple(differences), tuple(corrected), tuple(learned), tuple(cells), tuple(draws), tuple(series))
    return Rebuilt(*found, tuple(signals), tuple(strata))


async def _resolve_all(store: LedgerStore, experiment_id: int) -> bool:
    """Resolve all assignments again, a bounded number at a time; whether any reward changed."""
    changed = False
    last: tuple[int, UUID] | None = (-(2**63), UUID(int=0))
    while last is not None:
        last, differed = await store.resolve_again(experiment_id, after=last)
        changed |= differed
    return changed
