"""Totals as they are stored, and as an analysis reads them. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from fractions import Fraction

import msgspec
from msgspec.structs import replace

from app.allocation.model import NANO, VariantTotals
from app.analysis.observed import Cell, DrawnUnits, Observed
from app.assignment import bucketing
from app.experiments.metrics import REWARD, QuantileOf, Ratio
from app.experiments.model import Experiment, Running
from app.experiments.policies import FixedPolicy
from app.ledger.units.measures import CellTotals, Measures, measures_of
from app.ledger.units.metric_totals import totals_of
from app.ledger.units.strata import REWARDS
from stats.srm import ArmCounts
from stats.totals import JointTotals, MeanTotals


class EpochTotals(msgspec.Struct, frozen=True):
    """The totals of one variant (by its position) in one epoch."""

    epoch: int
    variant: int
    totals: VariantTotals


class UnitCell(msgspec.Struct, frozen=True):
    """The totals of the units of one cell; `crossed`: units that were in other variants as well."""

    epoch: int
    variant: int
    segment: str
    crossed: bool
    totals: CellTotals


class Drawn(msgspec.Struct, frozen=True):
    """The draws of a variant in an epoch, and the sum of its probability over all draws there.

    The sum is in parts of 2**32.
    """

    epoch: int
    variant: int
    assignments: int
    probability_sum: int


class StratumCell(msgspec.Struct, frozen=True):
    """The totals of one variant in a stratum of shares, with 1 / propensity in nanos beside each outcome."""

    epoch: int
    stratum: int
    variant: int
    totals: CellTotals


class StoredTotals(msgspec.Struct, frozen=True, kw_only=True):
    """The totals of an experiment at one moment, all from one snapshot of PostgreSQL.

    Everything acknowledged before `totals_as_of` is in them; None if that is unknown.
    `epoch_shares` holds the shares of each epoch in which they never moved; None where they did.
    """

    by_epoch: Sequence[EpochTotals]
    units: Sequence[UnitCell]
    draws: Sequence[Drawn]
    totals_as_of: datetime | None
    read_at: datetime
    epoch_shares: Mapping[int, tuple[float, ...] | None]
    strata: Sequence[StratumCell] = ()

    def observed(self, experiment: Experiment) -> Observed:
        """Return rewards and metrics as an analysis reads them.

        It reads the epochs in which the present control was the control. Variants that were retired before
        are left out.
        """
        if experiment.control_epoch > 1:
            return self._since(experiment.control_epoch).observed(replace(experiment, control_epoch=1))
        definition = experiment.definition
        keys = [variant.key for variant in definition.variants]
        measures = measures_of(definition.metrics, definition.plan, definition.stickiness, experiment.layouts)
        if measures is None or REWARD in measures.unfinished:
            cells = self._reward_cells(keys)
        else:
            cells = self._unit_cells(keys, measures)
        adaptive = any(shares is None for shares in self.epoch_shares.values())
        adaptive = adaptive or not isinstance(experiment.definition.policy, FixedPolicy)
        seen = {cell.variant for cell in cells}
        compared = [
            index
            for index, variant in enumerate(definition.variants)
            if not variant.retired or variant.key in seen
        ]
        if len(compared) < 2:
            compared = list(range(len(keys)))
        return Observed(
            variants=tuple(keys[index] for index in compared),
            control=definition.control_key,
            retired=tuple(keys[index] for index in compared if definition.variants[index].retired),
            cells=cells,
            adaptive=adaptive,
            drawn=self._drawn(keys, measures) if adaptive else (),
            fixed_epochs=[epoch for epoch, shares in self.epoch_shares.items() if shares is not None],
            assignments=[_of_variants(counts, compared) for counts in self._assignments(experiment)],
            crossovers=sum(
                cell.totals.units for cell in self.units if cell.crossed and cell.variant < len(keys)
            ),
            crossovers_counted=definition.plan.crossovers == "first",
            days=self._days(experiment),
            covariates=_covariates(measures),
            totals_age_s=self._totals_age_s(experiment),
        )

    def _since(self, epoch: int) -> "StoredTotals":
        return replace(
            self,
            by_epoch=[part for part in self.by_epoch if part.epoch >= epoch],
            units=[cell for cell in self.units if cell.epoch >= epoch],
            draws=[drawn for drawn in self.draws if drawn.epoch >= epoch],
            epoch_shares={number: shares for number, shares in self.epoch_shares.items() if number >= epoch},
            strata=[cell for cell in self.strata if cell.epoch >= epoch],
        )

    def _reward_cells(self, keys: Sequence[str]) -> list[Cell]:
        return [
            Cell(part.epoch, keys[part.variant], part.totals.assignments, {REWARD: _moments(part.totals)})
            for part in self.by_epoch
            if part.variant < len(keys)
        ]

    def _unit_cells(self, keys: Sequence[str], measures: Measures) -> list[Cell]:
        """Return the cells, without crossovers or with them in their first variant, as the plan says."""
        cells = []
        stored = [
            replace(cell, totals=measures.converted(cell.totals, measures.beside)) for cell in self.units
        ]
        fullest = _fullest(stored, measures)
        for cell in stored:
            if cell.variant >= len(keys) or (cell.crossed and measures.plan.crossovers == "exclude"):
                continue
            known = {
                metric.key: totals
                for metric, sums in zip(measures.metrics, cell.totals.metrics, strict=True)
                if metric.key not in measures.unfinished and (totals := totals_of(metric, sums)) is not None
            }
            joint = None if fullest is None else known.get(fullest)
            before = None
            if isinstance(joint, JointTotals) and joint.dimension > 1:
                before = joint.select(*range(1, joint.dimension))
            segment = "" if measures.resegmented else cell.segment
            cells.append(Cell(cell.epoch, keys[cell.variant], cell.totals.units, known, segment, before))
        return _alike(cells, measures)

    def _drawn(self, keys: Sequence[str], measures: Measures | None) -> list[DrawnUnits]:
        """Units by the shares that they were drawn with."""
        measures = REWARDS if measures is None else measures
        found = []
        for cell in self.strata:
            stored = measures.converted(cell.totals, beside=1)
            known = {
                metric.key: totals
                for metric, sums in zip(measures.metrics, stored.metrics, strict=True)
                if metric.key not in measures.unfinished
                and isinstance(totals := totals_of(metric, sums), JointTotals)
            }
            if cell.variant < len(keys):
                found.append(DrawnUnits(cell.epoch, cell.stratum, keys[cell.variant], known))
        return found

    def _assignments(self, experiment: Experiment) -> list[ArmCounts]:
        """Return the draws with their logged probabilities, by epoch.

        Without stickiness each assignment is a draw, else each unit is. Where shares moved, the
        sums of the ledger are used. With stickiness these are of each unit's first exposure in the
        experiment, because the unit returns to the same variant. For the same reason only the
        latest epoch shows a fixed split of sticky units. Shares by context are not stored.
        """
        definition = experiment.definition
        n_variants = len(definition.variants)
        if not isinstance(definition.policy, FixedPolicy):
            return _summed(self.draws, n_variants)
        drawn: dict[int, list[int]] = {}
        if definition.stickiness == "none":
            draws = [(part.epoch, part.variant, part.totals.assignments) for part in self.by_epoch]
        else:
            latest = max((cell.epoch for cell in self.units), default=0)
            draws = [
                (cell.epoch, cell.variant, cell.totals.units) for cell in self.units if cell.epoch == latest
            ]
        for epoch, variant, count in draws:
            shares = self.epoch_shares.get(epoch)
            if shares is not None and len(shares) <= n_variants and variant < n_variants:
                drawn.setdefault(epoch, [0] * n_variants)[variant] += count
        known = {epoch: self.epoch_shares[epoch] for epoch in drawn}
        constant = [
            ArmCounts(tuple(drawn[epoch]), padded(shares, n_variants))
            for epoch, shares in known.items()
            if shares
        ]
        if definition.stickiness != "none":
            return constant
        return constant + _summed([draws for draws in self.draws if draws.epoch not in drawn], n_variants)

    def _days(self, experiment: Experiment) -> float | None:
        """Return the days from the start to the totals."""
        started = getattr(experiment.state, "started_at", None)
        if started is None or self.totals_as_of is None or self.totals_as_of <= started:
            return None
        return float((self.totals_as_of - started).total_seconds() / 86_400)

    def _totals_age_s(self, experiment: Experiment) -> float | None:
        """Return the age of the totals of a running experiment; None if unknown."""
        if self.totals_as_of is None or not isinstance(experiment.state, Running):
            return None
        return float((self.read_at - self.totals_as_of).total_seconds())


def padded(shares: Sequence[float], n_variants: int) -> tuple[float, ...]:
    """Return the shares of an epoch with 0 for the variants that were added after it."""
    return (*shares, *[0.0] * (n_variants - len(shares)))


def _of_variants(counts: ArmCounts, positions: Sequence[int]) -> ArmCounts:
    """Return the counts of the variants at some positions; the others have none."""
    return ArmCounts(
        tuple(counts.counts[position] for position in positions),
        tuple(counts.probabilities[position] for position in positions),
    )


def _summed(draws: Sequence[Drawn], n_variants: int) -> list[ArmCounts]:
    """Return the draws of each epoch, with none of variants that were added after it."""
    epochs: defaultdict[int, list[Drawn]] = defaultdict(list)
    for drawn in draws:
        epochs[drawn.epoch].append(drawn)
    summed = []
    for of_epoch in epochs.values():
        n_later = n_variants - len(of_epoch)
        is_whole = n_later >= 0 and [drawn.variant for drawn in of_epoch] == list(range(len(of_epoch)))
        if is_whole and any(drawn.assignments for drawn in of_epoch):
            probabilities = [Fraction(drawn.probability_sum, bucketing.WHOLE) for drawn in of_epoch]
            assignments = [drawn.assignments for drawn in of_epoch]
            none = [0] * n_later
            summed.append(ArmCounts.from_sums(assignments + none, [*probabilities, *none]))
    return summed


def _alike(cells: list[Cell], measures: Measures) -> list[Cell]:
    """Keep covariates of a ratio in all cells or none: totals without them do not merge with others."""
    ratios = [metric.key for metric in measures.metrics if isinstance(metric.measure, Ratio)]
    for key in ratios:
        known = [cell.metrics[key] for cell in cells if key in cell.metrics]
        sizes = {totals.dimension for totals in known if isinstance(totals, JointTotals)}
        if len(sizes) > 1:
            cells = [
                replace(cell, metrics={**cell.metrics, key: totals.select(0, 1)})
                if isinstance(totals := cell.metrics.get(key), JointTotals)
                else cell
                for cell in cells
            ]
    return cells


def _covariates(measures: Measures | None) -> tuple[str, ...]:
    """Return the names in the order of the totals: values, then whether each is missing."""
    names = () if measures is None else measures.plan.covariates
    return (*names, *(f"{name} (missing)" for name in names))


def _fullest(cells: Sequence[UnitCell], measures: Measures) -> str | None:
    """Return the mean or proportion with most units, whose totals have most of the covariates."""
    if not measures.plan.covariates:
        return None
    units = {
        metric.key: sum(sums[0] for cell in cells if not isinstance(sums := cell.totals.metrics[place], dict))
        for place, metric in enumerate(measures.metrics)
        if not isinstance(metric.measure, Ratio | QuantileOf)
    }
    return max(units, key=lambda key: units[key], default=None)


def _moments(total: VariantTotals) -> MeanTotals:
    """Return the moments, exact up to the last rounding: sums are whole nanos."""
    return MeanTotals.from_sums(
        total.rewards, Fraction(total.reward_sum, NANO), Fraction(total.reward_square_sum, NANO**2)
    )
