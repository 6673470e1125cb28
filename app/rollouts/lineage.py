"""The versions of an experiment, and which one was the standard when, by whose decision. Pure.

Variants are versions. Nothing of this is stored a second time: it follows from the experiment's state and
from the decisions of its rollouts, which are never changed.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from app.experiments.model import Experiment, Stopped
from app.rollouts.life import Taken


class Completion(msgspec.Struct, frozen=True):
    """The decision that gave everything to the canaries of a rollout."""

    rollout: int
    canaries: tuple[str, ...]
    taken: Taken


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One variant. `standard`: it is what everyone gets who is in no comparison; `held`: by a rollout."""

    key: str
    payload: Any
    control: bool
    standard: bool
    held: float | None


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """From `at` on, `versions` took the place of `before` as the standard.

    `by` is null where Wald decided by itself, or nobody was noted down. `rollout` and `decision` name the
    evidence: its receipt is `GET /rollouts/{rollout}/decisions/{decision}`.
    """

    event: Literal["started", "completed", "stopped"]
    at: datetime
    versions: tuple[str, ...]
    before: tuple[str, ...]
    by: str | None = None
    reason: str = ""
    rollout: int | None = None
    decision: int | None = None


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """All versions in their order, and all changes of the standard, oldest first."""

    experiment: str
    versions: tuple[Version, ...]
    promotions: tuple[Promotion, ...]


def lineage(experiment: Experiment, completions: Sequence[Completion]) -> Lineage:
    """Which version was the standard when.

    It begins with the control, at the start. A completed rollout makes its canaries the standard, and a
    winner that an experiment was stopped with; stopped without one, it goes back to the control.
    """
    definition, state = experiment.definition, experiment.state
    control = definition.variants[definition.control_index].key
    promotions: list[Promotion] = []
    standard: tuple[str, ...] = ()
    if (started_at := getattr(state, "started_at", None)) is not None:
        standard = (control,)
        promotions.append(Promotion(event="started", at=started_at, versions=standard, before=()))
    for one in completions:
        promotions.append(
            Promotion(
                event="completed",
                at=one.taken.at,
                versions=one.canaries,
                before=standard,
                by=one.taken.by,
                reason=one.taken.reason,
                rollout=one.rollout,
                decision=one.taken.number,
            )
        )
        standard = one.canaries
    if isinstance(state, Stopped):
        last = (state.winner or control,)
        if last != standard:
            promotions.append(Promotion(event="stopped", at=state.stopped_at, versions=last, before=standard))
        standard = last
    return Lineage(
        experiment=experiment.key,
        versions=tuple(
            Version(
                key=variant.key,
                payload=variant.payload,
                control=variant.control,
                standard=variant.key in standard,
                held=experiment.held.get(variant.key),
            )
            for variant in definition.variants
        ),
        promotions=tuple(promotions),
    )
