"""What other controllers ask of a rollout: may it go on, must it go back. Pure."""

import msgspec

from app.analysis.readout.model import RolloutStatus
from app.rollouts.decide import held
from app.rollouts.life import Rollout
from app.rollouts.model import Completed, Draft, Paused, RollBack, RolledBack, Running


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One answer for all of them.

    `proceed`: the rollout is completed, or its canaries have at least the share that was asked for.
    `roll_back`: it was rolled back. `value`: 1, 0 or -1 of the two, for controllers that compare a number.
    """

    rollout: int
    state: str
    stage: int | None
    proceed: bool
    roll_back: bool
    value: int
    reason: str


def gate(rollout: Rollout, share: float = 1.0) -> Gate:
    """What is known now. Whatever it is asked about, a rollout that is completed may proceed.

    By hand: in the third of the default stages, at 25 %, it may proceed to 0.25, and not yet to 0.5 or 1.
    """
    state = rollout.state.running if isinstance(rollout.state, Paused) else rollout.state
    reached = isinstance(state, Running) and rollout.plan.stages[state.stage].share >= share
    proceed, roll_back = reached or isinstance(state, Completed), isinstance(state, RolledBack)
    return Gate(
        rollout=rollout.id,
        state=str(rollout.state.__struct_config__.tag),
        stage=getattr(state, "stage", None),
        proceed=proceed,
        roll_back=roll_back,
        value=-1 if roll_back else int(proceed),
        reason=_reason(rollout),
    )


def status_of(rollout: Rollout) -> RolloutStatus:
    """The rollout as the status of its experiment shows it.

    Worked by hand: two canaries in the second of the default stages hold 0.05 together; once they were rolled
    back they hold 0.
    """
    state = rollout.state.running if isinstance(rollout.state, Paused) else rollout.state
    found = gate(rollout)
    return RolloutStatus(
        id=rollout.id,
        state=found.state,
        canaries=rollout.plan.canaries,
        stage=found.stage,
        stages=len(rollout.plan.stages),
        share=sum(held(rollout.plan, rollout.state).values()),
        reason=found.reason,
        created_at=rollout.created_at,
        ended_at=getattr(state, "ended_at", None),
    )


def _reason(rollout: Rollout) -> str:
    decision = None if rollout.looked is None else rollout.looked.decision
    detail = getattr(decision, "detail", "")
    match rollout.state:
        case Draft():
            return "it has not been started"
        case Completed():
            return f"it was given {rollout.plan.stages[-1].share:.0%} for good"
        case RolledBack():
            return detail if isinstance(decision, RollBack) else "it was rolled back"
        case _:
            return detail or ("not looked at yet" if decision is None else "every guardrail is safe")
