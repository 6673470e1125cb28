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
    Plan,
    PrimaryReading,
    Reading,
    Running,
)
from app.rollouts.verdicts import read

RULES: Final = 3
"""The version of the tests that `verdicts` makes.

1: without tests that stand in where the sharpest is undefined or slow. 2: a ratio that all units share may
have a spread, from rounding.
"""


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """All that a decision is a function of. `rules` is the number of the tests that were made."""

    plan: Plan
    state: Running | Paused
    observed: Observed
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
        observed=observed.for_decision(),
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
        inputs.observed,
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
