"""A stored rollout, what people do to it, and the shares it holds. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from app.core.errors import Conflict
from app.experiments.model import AdaptivePolicy, EpsilonGreedyPolicy, Experiment
from app.rollouts.decide import held
from app.rollouts.model import (
    Advance,
    Complete,
    Completed,
    Decision,
    Paused,
    Plan,
    Reading,
    RolledBack,
    Running,
    State,
)
from app.rollouts.planner import control_share


class Started(msgspec.Struct, frozen=True, tag_field="kind", tag="started"):
    """The first stage began."""


class PausedByPerson(msgspec.Struct, frozen=True, tag_field="kind", tag="paused"):
    """It does not advance until it is resumed."""


class Resumed(msgspec.Struct, frozen=True, tag_field="kind", tag="resumed"):
    """It goes on."""


class Approved(msgspec.Struct, frozen=True, tag_field="kind", tag="approved"):
    """It may leave its stage as soon as all is safe."""


Step = Started | PausedByPerson | Resumed | Approved | Decision
"""Whatever is written down of a rollout."""


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, or what a person did: an event that is never changed. `by` is null for Wald's own."""

    number: int = 0
    decision: Step
    by: str | None = None
    reason: str = ""
    at: datetime


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """The last look: what it came to, and what was read for it."""

    at: datetime
    decision: Decision
    reading: Reading


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout of one or more variants of an experiment. `epoch` is the first one of its data."""

    id: int
    experiment: str
    plan: Plan
    state: State
    epoch: int
    looked: Looked | None
    created_by: str
    reason: str
    created_at: datetime

    @property
    def running(self) -> Running:
        """Where it is, also while it is paused. Raises Conflict once it has ended."""
        match self.state:
            case Running():
                return self.state
            case Paused(running=running):
                return running
            case RolledBack() | Completed():
                raise Conflict(f"rollout {self.id} has ended", field="state")


def next_stage(rollout: Rollout) -> Advance | Complete:
    """What comes after its stage. Raises Conflict once it has ended."""
    following = rollout.running.stage + 1
    if following >= len(rollout.plan.stages) or rollout.plan.stages[following].share >= 1:
        return Complete()
    return Advance(to_stage=following)


def shares_held(experiment: Experiment, plan: Plan, state: State) -> dict[str, float]:
    """The shares that the experiment has to hold for its rollout.

    Under a policy that learns, with variants besides control and canaries, the control is held as well while
    something is measured: else its share would follow the rewards, and the comparison with it would not be
    one of constant shares.
    """
    shares: dict[str, float] = held(plan, state)
    control = experiment.definition.variants[experiment.definition.control_index].key
    others = {variant.key for variant in experiment.definition.variants} - {control, *plan.canaries}
    learns = isinstance(experiment.definition.policy, AdaptivePolicy | EpsilonGreedyPolicy)
    if learns and others and isinstance(state, Running | Paused):
        stage = state.running.stage if isinstance(state, Paused) else state.stage
        if stage < len(plan.measured_stages):
            shares[control] = control_share(plan, stage)
    return shares


def released(experiment: Experiment, plan: Plan, state: State) -> Mapping[str, float]:
    """What it holds from rollouts before; the control that one of them held is free again."""
    control = experiment.definition.variants[experiment.definition.control_index].key
    kept = dict(experiment.held)
    if control not in shares_held(experiment, plan, state):
        kept.pop(control, None)
    return kept


EventKind = Literal[
    "rollout.started", "rollout.advanced", "rollout.completed", "rollout.rolled_back", "rollout.held",
    "rollout.approval_needed", "rollout.paused", "rollout.resumed", "rollout.approved",
]  # fmt: skip
"""The types of webhooks that rollouts send."""
