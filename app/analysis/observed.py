"""The data of an analysis: mergeable totals per epoch, variant and segment. Pure."""

from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from operator import add
from typing import Any

import msgspec

from app.ledger.units.metric_totals import MetricTotals
from stats.srm import ArmCounts
from stats.totals import JointTotals


class Cell(msgspec.Struct, frozen=True, omit_defaults=True):
    """The totals of one variant in one epoch (and segment): its `units`, and each metric's totals.

    A metric with fewer units has no value for the others: missing, never zero. `covariates` are the
    totals of the covariates alone, of all units with known ones; None without covariates.
    """

    epoch: int
    variant: str
    units: int
    metrics: Mapping[str, MetricTotals]
    segment: str = ""
    covariates: JointTotals | None = None


class DrawnUnits(msgspec.Struct, frozen=True, omit_defaults=True):
    """The units of one variant in a stratum of shares: joint totals of (outcomes ..., 1 / propensity)."""

    epoch: int
    stratum: int
    variant: str
    metrics: Mapping[str, JointTotals]


class Observed(msgspec.Struct, frozen=True, kw_only=True, dict=True, omit_defaults=True):
    """Everything known of an experiment at one moment.

    * `variants` in their order, `control` among them; `retired` get no more units. * `adaptive`: whether
    allocation reacted to outcomes within an epoch. * `drawn`: units by the shares they were
    drawn with, of the epochs in which it did; `fixed_epochs`: those in which it did not. * `assignments`:
    counts with the probabilities that were logged for them, all there are; empty if those are not known. *
    `crossovers`: units seen in more than one variant, which are in no cell unless `crossovers_counted`:
    for their first. * `days`: since the start. * `covariates`: their names, in the order of their
    totals; `constant_covariates`: those of no use, the same for every unit. * `totals_age_s`: events of
    the last so many seconds may be missing; None: not known, or of no matter.

    Raises ValueError unless the control is one of at least two variants, and cells are of these.
    """

    variants: tuple[str, ...]
    control: str
    cells: Sequence[Cell]
    retired: tuple[str, ...] = ()
    adaptive: bool = False
    drawn: Sequence[DrawnUnits] = ()
    fixed_epochs: Sequence[int] = ()
    assignments: Sequence[ArmCounts] = ()
    crossovers: int = 0
    crossovers_counted: bool = False
    days: float | None = None
    covariates: tuple[str, ...] = ()
    constant_covariates: tuple[str, ...] = ()
    totals_age_s: float | None = None

    def __post_init__(self) -> None:
        if len(set(self.variants)) != len(self.variants) or len(self.variants) < 2:
            raise ValueError(
                f"needs two or more different variants, got {', '.join(self.variants) or 'none'}"
            )
        if self.control not in self.variants:
            raise ValueError(f"the control {self.control!r} is not one of {', '.join(self.variants)}")
        if unknown := {cell.variant for cell in self.cells} - set(self.variants):
            raise ValueError(f"totals of unknown variants: {', '.join(sorted(unknown))}")

    def for_decision(self) -> "Observed":
        """Return the same without strata, and with lists as its sequences: equal to itself after decoding."""
        return msgspec.structs.replace(
            self,
            cells=list(self.cells),
            assignments=list(self.assignments) or (),
            drawn=(),
            fixed_epochs=(),
        )

    @property
    def treatments(self) -> tuple[str, ...]:
        """The variants that are compared with the control."""
        return tuple(variant for variant in self.variants if variant != self.control)

    @cached_property
    def epochs(self) -> tuple[int, ...]:
        """Epochs in ascending order."""
        return tuple(sorted({cell.epoch for cell in self.cells}))

    @cached_property
    def segments(self) -> tuple[str, ...]:
        """Declared segments, in the order of their names; empty if there are none."""
        return tuple(sorted({cell.segment for cell in self.cells} - {""}))

    def of_segment(self, segment: str) -> "Observed":
        """Return the totals of one segment alone."""
        return msgspec.structs.replace(self, cells=[cell for cell in self.cells if cell.segment == segment])

    def units(self, variant: str | None = None) -> int:
        """Return the units of a variant, or of all."""
        return sum(cell.units for cell in self.cells if variant in (None, cell.variant))

    def totals(
        self, metric: str, variant: str, *, epoch: int | None = None, segment: str | None = None
    ) -> MetricTotals | None:
        """Return the totals of a variant, in one epoch or segment if given; None if there are none."""
        key = "totals", metric, variant, epoch, segment
        if key not in self.memo:
            self.memo[key] = self._merged(metric, variant, epoch, segment)
        merged: MetricTotals | None = self.memo[key]
        return merged

    def pooled(self, metric: str, variant: str, epochs: Sequence[int]) -> MetricTotals | None:
        """Return the totals of a variant merged over these epochs; None if there are none."""
        totals = [self.totals(metric, variant, epoch=epoch) for epoch in epochs]
        known = [part for part in totals if part is not None]
        return reduce(add, known) if known else None

    def covariate_totals(self, variant: str, epoch: int) -> JointTotals | None:
        """Return the totals of the covariates of a variant in an epoch; None if there are none."""
        covariates = [
            cell.covariates
            for cell in self.cells
            if cell.covariates is not None and (cell.variant, cell.epoch) == (variant, epoch)
        ]
        return sum(covariates[1:], covariates[0]) if covariates else None

    @cached_property
    def memo(self) -> dict[tuple[object, ...], Any]:
        """Results from these totals, which a readout uses more than once."""
        return {}

    def _merged(
        self, metric: str, variant: str, epoch: int | None, segment: str | None
    ) -> MetricTotals | None:
        totals = [
            cell.metrics[metric]
            for cell in self.cells
            if cell.variant == variant
            and metric in cell.metrics
            and epoch in (None, cell.epoch)
            and segment in (None, cell.segment)
        ]
        return reduce(add, totals) if totals else None
