"""The receipt of a decision: what it was made from, what was read and decided, and the proof that it was. Pure."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from app.analysis.integrity import Finding
from app.analysis.observed import Observed
from app.rollouts.model import Decision, Paused, Plan, Reading, Running


class StoredObserved(msgspec.Struct, frozen=True, kw_only=True):
    """Totals as they are stored: `Observed` with every kind of totals named (fields follow)."""

    @classmethod
    def of(cls, observed: Observed) -> "StoredObserved":
        """Nothing is lost."""
        raise NotImplementedError(observed)

    def observed(self) -> Observed:
        """As it was."""
        raise NotImplementedError


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """All that a decision is a function of. `examples` name assignments that contributed; they decide nothing."""

    plan: Plan
    state: Running | Paused
    observed: StoredObserved
    findings: tuple[Finding, ...]
    now: datetime
    as_of: datetime | None
    examples: tuple[str, ...] = ()


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A decision with its evidence: stored with it as JSON, sent with its webhooks."""

    inputs: Inputs
    reading: Reading
    decision: Decision


def receipt(
    plan: Plan,
    state: Running | Paused,
    observed: Observed,
    *,
    findings: Sequence[Finding],
    now: datetime,
    as_of: datetime | None,
    examples: Sequence[str] = (),
) -> Receipt:
    """Read, decide, and keep what both were made from."""
    raise NotImplementedError(plan, state, observed, findings, now, as_of, examples)


def recompute(inputs: Inputs) -> Receipt:
    """The receipt again, from its inputs alone."""
    raise NotImplementedError(inputs)


def reproduces(stored: Receipt) -> bool:
    """Whether reading and decision follow from the inputs bit for bit: the JSON of both is the same."""
    raise NotImplementedError(stored)
