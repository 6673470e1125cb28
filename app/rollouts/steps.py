"""The steps of a rollout, the state after each, and the webhook that reports it. Pure."""

from datetime import datetime
from typing import Final, Literal, assert_never

import msgspec

from app.rollouts.model import (
    Advance,
    Ask,
    Complete,
    Completed,
    Decision,
    Draft,
    Hold,
    Paused,
    RollBack,
    RolledBack,
    Running,
    State,
)


class Started(msgspec.Struct, frozen=True, tag_field="kind", tag="started"):
    """The first stage began."""


class PausedByPerson(msgspec.Struct, frozen=True, tag_field="kind", tag="paused"):
    """The rollout does not advance until it is resumed."""


class Resumed(msgspec.Struct, frozen=True, tag_field="kind", tag="resumed"):
    """A person resumed a paused rollout."""


class Approved(msgspec.Struct, frozen=True, tag_field="kind", tag="approved"):
    """The rollout may leave its stage as soon as all guardrails are safe."""


Step = Started | PausedByPerson | Resumed | Approved | Decision
"""An entry in the history of a rollout."""

EventKind = Literal[
    "rollout.started", "rollout.advanced", "rollout.completed", "rollout.rolled_back", "rollout.held",
    "rollout.recovered", "rollout.approval_needed", "rollout.paused", "rollout.resumed", "rollout.approved",
]  # fmt: skip
"""The types of webhooks that rollouts send."""

_EVENTS: Final[dict[type[Step], EventKind]] = {
    Started: "rollout.started",
    PausedByPerson: "rollout.paused",
    Resumed: "rollout.resumed",
    Approved: "rollout.approved",
    Advance: "rollout.advanced",
    Complete: "rollout.completed",
    RollBack: "rollout.rolled_back",
    Hold: "rollout.held",
    Ask: "rollout.approval_needed",
}


def event_of(step: Step) -> tuple[EventKind, str]:
    """Return the type of the webhook that reports a step, and its severity."""
    match step:
        case RollBack(reason=reason) if reason != "ended":
            severity = "critical"
        case Hold() | Ask():
            severity = "warning"
        case _:
            severity = "info"
    return _EVENTS[type(step)], severity


def description(step: Step) -> str:
    """Return a step in words."""
    kind = str(step.__struct_config__.tag).replace("_", " ")
    detail = getattr(step, "detail", "")
    return f"{kind}: {detail}" if detail else kind


def after(  # noqa: C901, PLR0911 - one per step
    state: State, step: Step, *, at: datetime, epoch: int, canaries: tuple[str, ...] = ()
) -> State:
    """Return the state after a step. `epoch` is the one that begins with its change of shares.

    A person's decision is the same record: `RollBack(reason="person")`, or an `Advance` that skips
    a stage. `canaries` are those that a start begins with. A draft can only be started, and nothing
    changes a rollout that has ended. The time of a pause does not count as time in the stage.
    """
    if isinstance(step, Started):
        return Running(stage=0, entered_at=at, epoch=epoch, canaries=canaries)
    if isinstance(state, Draft | RolledBack | Completed):
        return state
    running = state.running
    match step:
        case Hold() | Ask():
            return state
        case PausedByPerson():
            return Paused(running=running, paused_at=at)
        case Resumed():
            paused_at = state.paused_at if isinstance(state, Paused) else at
            return msgspec.structs.replace(running, entered_at=running.entered_at + (at - paused_at))
        case Approved():
            return msgspec.structs.replace(running, approved=True)
        case Advance(to_stage=position):
            return Running(stage=position, entered_at=at, epoch=epoch, canaries=running.canaries)
        case Complete():
            return Completed(canaries=running.canaries, ended_at=at)
        case RollBack(canaries=harmed):
            kept = tuple(canary for canary in running.canaries if canary not in harmed)
            if not kept:
                return RolledBack(stage=running.stage, ended_at=at)
            fewer = msgspec.structs.replace(running, canaries=kept)
            return msgspec.structs.replace(state, running=fewer) if isinstance(state, Paused) else fewer
        case _:
            assert_never(step)
