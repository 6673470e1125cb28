"""The receipt of a decision: its inputs, its reading and the decision. Pure.

A receipt is JSON, and everything in it but the examples follows from its inputs. `recompute`
reproduces it bit for bit, because JSON holds every number to its last digit and no clock or chance
is used. Another release may compute other last digits from the same inputs; `wald` names the
release that wrote a receipt. If the tests of harm and safety change, `RULES` gets another number. A
receipt of other rules can be read, but is not recomputed.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from app.analysis.integrity import Finding
from app.analysis.observed import Observed
from app.rollouts import limits
from app.rollouts.decide import decide
from app.rollouts.model import (
    Decision,
    GuardrailReading,
    LimitReading,
    Paused,
    PrimaryReading,
    Reading,
    RolloutPlan,
    Running,
)
from app.rollouts.verdicts import read

RULES: Final = 3
"""The version of the tests that `verdicts` makes.

1: without tests that stand in where the sharpest is undefined or slow. 2: a ratio that all units
share may have a spread, from rounding.
"""


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """All inputs of a decision. `rules` is the version of its tests."""

    plan: RolloutPlan
    state: Running | Paused
    observed: Observed
    findings: tuple[Finding, ...]
    now: datetime
    as_of: datetime | None
    rules: int = 1  # older receipts do not have it


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A decision with its evidence, as it is stored. A `Notice` is the part that is sent.

    `examples` name the first assignments that contributed; they decide nothing.
    """

    wald: str
    inputs: Inputs
    reading: Reading
    decision: Decision
    examples: tuple[str, ...] = ()


class EpochUnits(msgspec.Struct, frozen=True):
    """The number of units of a variant in an epoch."""

    epoch: int
    variant: str
    units: int


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a receipt that is sent: without the totals, and with a bounded size.

    `readings_left_out` counts readings of guardrails beyond the first dozen.
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
        """Return harm first, then open guardrails, then safe ones; tripped limits; the newest epochs."""
        ranks = {"harm": 0, "not_enough_data": 1, "safe": 2}
        shown = sorted(made.reading.guardrails, key=lambda reading: ranks[reading.verdict])
        most = limits.ROLLOUT_NOTICE_READINGS_MAX
        state = made.inputs.state
        units = Counter[tuple[int, str]]()
        for cell in made.inputs.observed.cells:
            units[cell.epoch, cell.variant] += cell.units
        epochs = [EpochUnits(epoch, variant, n) for (epoch, variant), n in sorted(units.items())]
        return cls(
            decision=made.decision,
            at=made.inputs.now,
            stage=state.running.stage,
            guardrails=tuple(shown[:most]),
            readings_left_out=max(len(shown) - most, 0),
            limits=tuple(limit for limit in made.reading.limits if limit.tripped)[:most],
            primary=made.reading.primary[:most],
            integrity=made.reading.integrity[:most],
            epochs=tuple(epochs[-2 * most :]),
            examples=made.examples,
        )


def receipt(
    plan: RolloutPlan,
    state: Running | Paused,
    observed: Observed,
    *,
    findings: Sequence[Finding],
    now: datetime,
    as_of: datetime | None,
    wald: str,
    examples: Sequence[str] = (),
) -> Receipt:
    """Read, decide and keep the inputs of both. `wald` is this release."""
    inputs = Inputs(
        plan=plan,
        state=state,
        observed=observed.for_decision(),
        findings=tuple(findings),
        now=now,
        as_of=as_of,
        rules=RULES,
    )
    made = recompute(inputs, wald=wald)
    return msgspec.structs.replace(made, examples=tuple(examples[: limits.ROLLOUT_EXAMPLES_MAX]))


def recompute(inputs: Inputs, *, wald: str) -> Receipt:
    """Return the receipt from its inputs alone."""
    reading = read(
        inputs.plan,
        inputs.state,
        inputs.observed,
        findings=inputs.findings,
        now=inputs.now,
        as_of=inputs.as_of,
    )
    decision = decide(inputs.plan, inputs.state, reading, inputs.now)
    return Receipt(wald=wald, inputs=inputs, reading=reading, decision=decision)


def is_current(stored: Receipt) -> bool:
    """Return whether this release makes the tests of the receipt, so that it can recompute it."""
    return stored.inputs.rules == RULES


def differences(stored: Receipt) -> tuple[str, ...]:
    """Return which of `reading` and `decision` the inputs do not reproduce bit for bit.

    It compares the JSON of both sides, so a receipt may also come from a file or a database. The
    result is empty for a receipt that is not current.
    """
    if not is_current(stored):
        return ()
    again = recompute(stored.inputs, wald=stored.wald)
    return tuple(
        part
        for part in ("reading", "decision")
        if msgspec.json.encode(getattr(again, part)) != msgspec.json.encode(getattr(stored, part))
    )
