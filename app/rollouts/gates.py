"""Answers to other controllers: whether a rollout may go on or must go back. Pure."""

import msgspec

from app.analysis.readout.model import RolloutStatus
from app.rollouts.decide import held
from app.rollouts.life import Rollout
from app.rollouts.model import Completed, Draft, Paused, RollBack, RolledBack, Running


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a controller.

    `proceed`: the rollout is completed, or its canaries have at least the share in question.
    `roll_back`: it was rolled back. `value` is 1, 0 or -1, for controllers that compare a number.
    """

    rollout: int
    state: str
    stage: int | None
    proceed: bool
    roll_back: bool
    value: int
    reason: str


def gate(rollout: Rollout, share: float = 1.0) -> Gate:
    """Return whether a rollout may go on to this share. A completed rollout may go on to any share.

    Worked by hand: in the third of the default stages, at 25 %, it may proceed to 0.25, and not yet
    to 0.5 or 1.
    """
    state = rollout.state
    stage = _stage(rollout)
    reached = isinstance(state, Running | Paused) and rollout.plan.stages[stage or 0].share >= share
    proceed, roll_back = reached or isinstance(state, Completed), isinstance(state, RolledBack)
    return Gate(
        rollout=rollout.id,
        state=str(state.__struct_config__.tag),
        stage=stage,
        proceed=proceed,
        roll_back=roll_back,
        value=-1 if roll_back else int(proceed),
        reason=_reason(rollout),
    )


def status_of(rollout: Rollout) -> RolloutStatus:
    """Return the rollout as the status of its experiment shows it.

    Worked by hand: two canaries in the second of the default stages hold 0.05 together. After a
    rollback they hold 0.
    """
    return RolloutStatus(
        id=rollout.id,
        state=str(rollout.state.__struct_config__.tag),
        canaries=rollout.plan.canaries,
        stage=_stage(rollout),
        stages=len(rollout.plan.stages),
        share=sum(held(rollout.plan, rollout.state).values()),
        reason=_reason(rollout),
        created_at=rollout.created_at,
        ended_at=getattr(rollout.state, "ended_at", None),
    )


def _stage(rollout: Rollout) -> int | None:
    """Return the position of the stage that a rollout is in, or was in when it was rolled back."""
    return getattr(getattr(rollout.state, "running", rollout.state), "stage", None)


def _reason(rollout: Rollout) -> str:
    decision = None if rollout.looked is None else rollout.looked.decision
    detail = getattr(decision, "detail", "")
    match rollout.state:
        case Draft():
            return "the rollout has not been started"
        case Completed():
            return f"the canaries have {rollout.plan.stages[-1].share:.0%} of the traffic for good"
        case RolledBack():
            return detail if isinstance(decision, RollBack) else "the rollout was rolled back"
        case _:
            return detail or ("not looked at yet" if decision is None else "every guardrail is safe")
