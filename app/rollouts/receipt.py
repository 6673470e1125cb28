"""The receipt of a decision: from what it was made, what was read, and what was decided. Pure.

A receipt is JSON, and everything in it but the examples follows from its inputs: `recompute` gives it again,
bit for bit, because JSON holds every number to its last digit and no clock or chance is asked. What a later
release computes from the same inputs may differ in the last digit; `wald` names the release that wrote it.
Tests of harm and safety that change get another number of `RULES`: a receipt of other rules is read, and is
not computed again.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Final, assert_never

import msgspec

from app.analysis.integrity import Finding
from app.analysis.observed import Cell, Observed
from app.ledger.units.metric_totals import MetricTotals
from app.rollouts import limits
from app.rollouts.decide import decide
from app.rollouts.model import (
    Decision,
    GuardrailReading,
    LimitReading,
    Paused,
    Plan,
    PrimaryReading,
    Reading,
    Running,
)
from app.rollouts.verdicts import read
from stats.adaptive import ArmPeriod
from stats.quantiles import QuantileSketch
from stats.srm import ArmCounts
from stats.totals import JointTotals, MeanTotals, ProportionTotals


class ProportionSums(msgspec.Struct, frozen=True, tag_field="kind", tag="proportion"):
    """`stats.totals.ProportionTotals`."""

    n: int
    successes: int


class MeanSums(msgspec.Struct, frozen=True, tag_field="kind", tag="mean"):
    """`stats.totals.MeanTotals`."""

    n: int
    mean: float
    m2: float


class JointSums(msgspec.Struct, frozen=True, tag_field="kind", tag="joint"):
    """`stats.totals.JointTotals`."""

    n: int
    mean: tuple[float, ...]
    comoments: tuple[float, ...]


class SketchCounts(msgspec.Struct, frozen=True, tag_field="kind", tag="quantile"):
    """`stats.quantiles.QuantileSketch`."""

    accuracy: float
    buckets: tuple[tuple[int, int], ...]


StoredTotals = ProportionSums | MeanSums | JointSums | SketchCounts
"""Totals that say of which kind they are."""


class StoredCell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the epoch table: a variant in an epoch (and segment)."""

    epoch: int
    variant: str
    units: int
    metrics: dict[str, StoredTotals]
    segment: str = ""


class StoredObserved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`Observed` as JSON: the epoch table, and what else an analysis reads."""

    variants: tuple[str, ...]
    control: str
    cells: tuple[StoredCell, ...]
    adaptive: bool = False
    periods: dict[str, dict[str, tuple[ArmPeriod, ...]]] = {}
    assignments: tuple[ArmCounts, ...] = ()
    crossovers: int = 0
    crossovers_counted: bool = False
    days: float | None = None

    @classmethod
    def of(cls, observed: Observed) -> "StoredObserved":
        """Nothing is lost."""
        cells = tuple(
            StoredCell(
                epoch=cell.epoch,
                variant=cell.variant,
                units=cell.units,
                metrics={key: _stored(totals) for key, totals in cell.metrics.items()},
                segment=cell.segment,
            )
            for cell in observed.cells
        )
        return cls(
            variants=observed.variants,
            control=observed.control,
            cells=cells,
            adaptive=observed.adaptive,
            periods={key: dict(arms) for key, arms in observed.periods.items()},
            assignments=tuple(observed.assignments),
            crossovers=observed.crossovers,
            crossovers_counted=observed.crossovers_counted,
            days=observed.days,
        )

    def observed(self) -> Observed:
        """As it was."""
        cells = [
            Cell(
                cell.epoch,
                cell.variant,
                cell.units,
                {key: _totals(stored) for key, stored in cell.metrics.items()},
                cell.segment,
            )
            for cell in self.cells
        ]
        return Observed(
            variants=self.variants,
            control=self.control,
            cells=cells,
            adaptive=self.adaptive,
            periods=self.periods,
            assignments=self.assignments,
            crossovers=self.crossovers,
            crossovers_counted=self.crossovers_counted,
            days=self.days,
        )


def _stored(totals: MetricTotals) -> StoredTotals:
    match totals:
        case ProportionTotals(n=n, successes=successes):
            return ProportionSums(n, successes)
        case MeanTotals(n=n, mean=mean, m2=m2):
            return MeanSums(n, mean, m2)
        case JointTotals(n=n, mean=means, comoments=comoments):
            return JointSums(n, means, comoments)
        case QuantileSketch(accuracy=accuracy, buckets=buckets):
            return SketchCounts(accuracy, buckets)
        case _:
            assert_never(totals)


def _totals(stored: StoredTotals) -> MetricTotals:
    match stored:
        case ProportionSums(n=n, successes=successes):
            return ProportionTotals(n, successes)
        case MeanSums(n=n, mean=mean, m2=m2):
            return MeanTotals(n, mean, m2)
        case JointSums(n=n, mean=means, comoments=comoments):
            return JointTotals(n, means, comoments)
        case SketchCounts(accuracy=accuracy, buckets=buckets):
            return QuantileSketch(accuracy, buckets)
        case _:
            assert_never(stored)


RULES: Final = 2
"""The tests that `verdicts` makes. 1: without tests that stand in where the sharpest is undefined or slow."""


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """All that a decision is a function of. `rules` is the number of the tests that were made."""

    plan: Plan
    state: Running | Paused
    observed: StoredObserved
    findings: tuple[Finding, ...]
    now: datetime
    as_of: datetime | None
    rules: int = 1  # receipts of before do not say so


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A decision with its evidence, as it is stored with it. What is sent of it is a `Notice`.

    `examples` name assignments that contributed, the first of them; they decide nothing.
    """

    wald: str
    inputs: Inputs
    reading: Reading
    decision: Decision
    examples: tuple[str, ...] = ()


class EpochUnits(msgspec.Struct, frozen=True):
    """How many units came to a variant in an epoch."""

    epoch: int
    variant: str
    units: int


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt for those who are told of a decision: without the totals, and small enough to send.

    `readings_left_out`: of guardrails that are safe, or wait, beyond the first dozen.
    """

    decision: Decision
    at: datetime
    stage: int
    guardrails: tuple[GuardrailReading, ...]
    readings_left_out: int
    limits: tuple[LimitReading, ...]
    primary: tuple[PrimaryReading, ...]
    integrity: tuple[Finding, ...]
    epochs: tuple[EpochUnits, ...]
    examples: tuple[str, ...]

    @classmethod
    def of(cls, made: Receipt) -> "Notice":
        """Harm first, then what waits, then what is safe; limits that tripped; the newest epochs."""
        ranks = {"harm": 0, "not_enough_data": 1, "safe": 2}
        shown = sorted(made.reading.guardrails, key=lambda one: ranks[one.verdict])
        most = limits.ROLLOUT_NOTICE_READINGS_MAX
        state = made.inputs.state
        units = Counter[tuple[int, str]]()
        for cell in made.inputs.observed.cells:
            units[cell.epoch, cell.variant] += cell.units
        epochs = [EpochUnits(epoch, variant, n) for (epoch, variant), n in sorted(units.items())]
        return cls(
            decision=made.decision,
            at=made.inputs.now,
            stage=state.running.stage if isinstance(state, Paused) else state.stage,
            guardrails=tuple(shown[:most]),
            readings_left_out=max(len(shown) - most, 0),
            limits=tuple(one for one in made.reading.limits if one.tripped)[:most],
            primary=made.reading.primary[:most],
            integrity=made.reading.integrity[:most],
            epochs=tuple(epochs[-2 * most :]),
            examples=made.examples,
        )


def receipt(
    plan: Plan,
    state: Running | Paused,
    observed: Observed,
    *,
    findings: Sequence[Finding],
    now: datetime,
    as_of: datetime | None,
    wald: str,
    examples: Sequence[str] = (),
) -> Receipt:
    """Read, decide, and keep what both were made from. `wald` is the release that does it."""
    inputs = Inputs(
        plan=plan,
        state=state,
        observed=StoredObserved.of(observed),
        findings=tuple(findings),
        now=now,
        as_of=as_of,
        rules=RULES,
    )
    made = recompute(inputs, wald=wald)
    return msgspec.structs.replace(made, examples=tuple(examples[: limits.ROLLOUT_EXAMPLES_MAX]))


def recompute(inputs: Inputs, *, wald: str) -> Receipt:
    """The receipt, from its inputs alone."""
    reading = read(
        inputs.plan,
        inputs.state,
        inputs.observed.observed(),
        findings=inputs.findings,
        now=inputs.now,
        as_of=inputs.as_of,
    )
    decision = decide(inputs.plan, inputs.state, reading, inputs.now)
    return Receipt(wald=wald, inputs=inputs, reading=reading, decision=decision)


def is_current(stored: Receipt) -> bool:
    """Whether this release still makes the tests of the receipt, so that it can compute it again."""
    return stored.inputs.rules == RULES


def differences(stored: Receipt) -> tuple[str, ...]:
    """Which of `reading` and `decision` do not follow from the inputs bit for bit; empty if all is well.

    The JSON of both sides is compared, so a receipt may come from a file or a database too. Empty for one
    that is not current.
    """
    if not is_current(stored):
        return ()
    again = recompute(stored.inputs, wald=stored.wald)
    return tuple(
        part
        for part in ("reading", "decision")
        if msgspec.json.encode(getattr(again, part)) != msgspec.json.encode(getattr(stored, part))
    )
