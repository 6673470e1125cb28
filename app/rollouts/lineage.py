"""The versions of an experiment: which one was the standard when, and who decided it. Pure.

Variants are versions. The lineage is not stored: it follows from the experiment's state and from
the decisions of its rollouts, which never change.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from operator import itemgetter
from typing import Any, Literal

import msgspec

from app.experiments.model import Experiment, Stopped
from app.rollouts.life import Taken


class Completion(msgspec.Struct, frozen=True):
    """The decision that gave all traffic to the canaries of a rollout."""

    rollout: int
    canaries: tuple[str, ...]
    taken: Taken


class ControlSince(msgspec.Struct, frozen=True):
    """The control of an epoch, and when the epoch began."""

    control: str
    at: datetime


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A variant in the lineage.

    `standard` says whether units outside of the comparison get it. `held` is the share that a
    rollout holds for it, None without a rollout.
    """

    key: str
    payload: Any
    control: bool
    standard: bool
    held: float | None


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the standard: since `at`, `versions` have replaced `before`.

    `by` is null if Wald decided by itself, or if no person was recorded. `rollout` and `decision`
    name the evidence; its receipt is `GET /rollouts/{rollout}/decisions/{decision}`.
    """

    event: Literal["started", "completed", "control", "stopped"]
    at: datetime
    versions: tuple[str, ...]
    before: tuple[str, ...]
    by: str | None = None
    reason: str = ""
    rollout: int | None = None
    decision: int | None = None


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """All versions in order, and all changes of the standard, oldest first."""

    experiment: str
    versions: tuple[Version, ...]
    promotions: tuple[Promotion, ...]


def lineage(
    experiment: Experiment, completions: Sequence[Completion], controls: Sequence[ControlSince] = ()
) -> Lineage:
    """Return which version was the standard when.

    The first standard is the control at the start. A completed rollout makes its canaries the standard, and
    a change of the control makes the new control the standard. A stopped experiment serves its winner, or
    else the control. `controls` are those of the epochs, in order.
    """
    definition, state = experiment.definition, experiment.state
    control = definition.control_key
    promotions: list[Promotion] = []
    standard: tuple[str, ...] = ()
    if (started_at := getattr(state, "started_at", None)) is not None:
        standard = (controls[0].control if controls else control,)
        promotions.append(Promotion(event="started", at=started_at, versions=standard, before=()))
    replaced = [later for earlier, later in pairwise(controls) if later.control != earlier.control]
    events: list[tuple[datetime, Completion | ControlSince]] = [
        *((completion.taken.at, completion) for completion in completions),
        *((epoch.at, epoch) for epoch in replaced),
    ]
    for at, event in sorted(events, key=itemgetter(0)):
        if isinstance(event, ControlSince):
            if standard != (event.control,):
                promotions.append(
                    Promotion(event="control", at=at, versions=(event.control,), before=standard)
                )
            standard = (event.control,)
            continue
        taken, completion = event.taken, event
        promotions.append(
            Promotion(
                event="completed",
                at=taken.at,
                versions=completion.canaries,
                before=standard,
                by=taken.by,
                reason=taken.reason,
                rollout=completion.rollout,
                decision=taken.number,
            )
        )
        standard = completion.canaries
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
