"""What other controllers ask of a rollout: may it go on, must it go back. Pure."""

import msgspec

from app.rollouts.life import Rollout
from app.rollouts.model import Advance, Complete, Completed, Draft, Paused, RollBack, RolledBack


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One answer for all of them.

    `proceed`: every guardrail was safe at the last look, or it is completed; `roll_back`: harm is proven, or
    it was rolled back. `value`: 1, 0 or -1 of the two, for controllers that compare a number.
    """

    rollout: int
    state: str
    stage: int | None
    proceed: bool
    roll_back: bool
    value: int
    reason: str


def gate(rollout: Rollout) -> Gate:
    """What is known now."""
    decision = None if rollout.looked is None else rollout.looked.decision
    roll_back = isinstance(rollout.state, RolledBack) or isinstance(decision, RollBack)
    ended = isinstance(rollout.state, RolledBack | Completed)
    proceed = not roll_back and (
        isinstance(rollout.state, Completed) or (not ended and isinstance(decision, Advance | Complete))
    )
    idle = "it has not been started" if isinstance(rollout.state, Draft) else "not looked at yet"
    otherwise = "every guardrail is safe" if proceed else idle
    reason = getattr(decision, "detail", "") or otherwise
    state = rollout.state.running if isinstance(rollout.state, Paused) else rollout.state
    return Gate(
        rollout=rollout.id,
        state=str(rollout.state.__struct_config__.tag),
        stage=getattr(state, "stage", None),
        proceed=proceed,
        roll_back=roll_back,
        value=-1 if roll_back else int(proceed),
        reason=reason,
    )
