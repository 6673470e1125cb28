"""A stored rollout, what people do to it, and the shares that it holds. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from app.core.errors import Conflict
from app.experiments.model import Experiment
from app.experiments.policies import FixedPolicy
from app.rollouts.decide import held
from app.rollouts.model import (
    Advance,
    Complete,
    Completed,
    Decision,
    Draft,
    Guardrail,
    Paused,
    Primary,
    Reading,
    RollBack,
    RolledBack,
    RolloutPlan,
    Running,
    State,
)
from app.rollouts.planner import control_share
from app.rollouts.steps import Approved, PausedByPerson, Resumed, Step


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A decision or a person's action: an event that never changes. `by` is null for Wald's own."""

    number: int = 0
    decision: Step
    by: str | None = None
    reason: str = ""
    at: datetime


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """The last look: its decision and what was read for it.

    `called`: a webhook reported the reason, the reason still stands, and no other was sent since.
    """

    at: datetime
    decision: Decision
    reading: Reading
    called: bool = False


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout of variants of an experiment. `epoch` is the first one of its data; 0: a draft."""

    id: int
    experiment: str
    plan: RolloutPlan
    state: State
    epoch: int
    looked: Looked | None
    created_by: str
    reason: str
    created_at: datetime

    @property
    def running(self) -> Running:
        """Stage and canaries, also while it is paused. Raises Conflict before the start and after the end."""
        match self.state:
            case Running() | Paused():
                return self.state.running
            case Draft():
                raise Conflict(f"rollout {self.id} is a draft; start it first", field="state")
            case RolledBack() | Completed():
                raise Conflict(f"rollout {self.id} has ended", field="state")


def next_stage(rollout: Rollout) -> Advance | Complete:
    """Return what comes after the present stage. Raises Conflict after the end."""
    following = rollout.running.stage + 1
    if following >= len(rollout.plan.stages) or rollout.plan.stages[following].share >= 1:
        return Complete()
    return Advance(to_stage=following)


def step_of(rollout: Rollout, action: str, reason: str) -> Step:
    """Return what an action does to this rollout. Raises Conflict if there is nothing to do."""
    running = rollout.running
    is_paused = isinstance(rollout.state, Paused)
    match action:
        case "pause" if not is_paused:
            return PausedByPerson()
        case "resume" if is_paused:
            return Resumed()
        case "approve" if not is_paused and not running.approved:
            return Approved()
        case "advance":
            return next_stage(rollout)
        case "rollback":
            return RollBack(canaries=running.canaries, reason="person", detail=reason)
        case _:
            now = "paused" if is_paused else "running"
            raise Conflict(f"cannot {action} rollout {rollout.id}: it is {now}", field="state")


def check_repeats(plan: RolloutPlan, reason: str, ended: Sequence[Rollout], harmed: int | None) -> None:
    """Refuse a repeated request, which would undo the end of the rollout before.

    `ended` are the newest ended rollouts of its canaries, the newest end first. `harmed` is the id
    of the newest one that proved harm. Canaries that were promoted would return to the first stage.
    Canaries that did harm would get traffic again when a job repeats its request. An intended
    request names the newest of these rollouts in `after`. Its own repetition is refused, because
    there is a newer rollout by then.

    Raises Conflict.
    """
    newest = ended[0] if ended else None
    if plan.after is not None and (newest is None or newest.id != plan.after):
        expected = "none has ended" if newest is None else f"expected {newest.id}"
        raise Conflict(
            f"after must be the newest ended rollout of these canaries; got {plan.after}, {expected}",
            field="after",
        )
    if newest is None or plan.after is not None:
        return
    again = f'to roll out again on purpose, add "after": {newest.id}'
    for canary in plan.canaries:
        last = next((rollout for rollout in ended if canary in rollout.plan.canaries), None)
        if last is not None and isinstance(last.state, Completed) and canary in last.state.canaries:
            raise Conflict(
                f"rollout {last.id} has already promoted {canary!r}, and a new rollout would take traffic "
                f"away from it; {again}",
                field="canaries",
            )
    same = reason == newest.reason and _as_requested(plan, newest.plan) == _as_requested(newest.plan, plan)
    if same and newest.id == harmed:
        raise Conflict(
            f"rollout {newest.id} of the same request was rolled back for harm; {again}, "
            "or give a new reason",
            field="canaries",
        )


def _as_requested(plan: RolloutPlan, other: RolloutPlan) -> RolloutPlan:
    """Return a plan without the baselines that the other one, not yet started, does not have."""

    def plain(tested: Guardrail | Primary, same: Guardrail | Primary | None) -> Guardrail | Primary:
        has_baseline = same is not None and same.baseline is not None
        return tested if has_baseline else msgspec.structs.replace(tested, baseline=None)

    others = {guardrail.metric.key: guardrail for guardrail in other.guardrails}
    return msgspec.structs.replace(
        plan,
        after=None,
        guardrails=tuple(plain(guardrail, others.get(guardrail.metric.key)) for guardrail in plan.guardrails),
        primary=None if plan.primary is None else plain(plan.primary, other.primary),
    )


def shares_held(experiment: Experiment, plan: RolloutPlan, state: State) -> dict[str, float]:
    """Return the shares that the experiment must hold for its rollout.

    If there are variants other than control and canaries, the control is held too while something
    is measured. Under a policy that learns it has the planner's size: otherwise its share would
    follow the rewards and not be constant. Under a fixed policy that would give it less than a
    canary, it has the share of a canary.
    """
    shares = held(plan, state)
    control = control_of(experiment)
    others = set(experiment.definition.setting.variants) - {control, *plan.canaries}
    if not others or not isinstance(state, Running | Paused):
        return shares
    stage = state.running.stage
    if stage < len(plan.measured_stages):
        share = plan.stages[stage].share
        free = room(experiment, plan) - share
        policy = experiment.definition.policy
        if not isinstance(policy, FixedPolicy):
            shares[control] = min(control_share(plan, stage), free)
        elif _share_of_control(experiment, policy, shares) < (least := share / len(plan.canaries)):
            shares[control] = min(least, free)
    return shares


def shares_after(experiment: Experiment, plan: RolloutPlan, state: State) -> dict[str, float]:
    """Return all held shares, also of earlier rollouts; a control that one of them held is free again."""
    kept = {key: share for key, share in experiment.held.items() if key != control_of(experiment)}
    return kept | shares_held(experiment, plan, state)


def room(experiment: Experiment, plan: RolloutPlan) -> float:
    """Return the share that earlier rollouts leave for the control and the canaries of this plan."""
    compared = {control_of(experiment), *plan.canaries}
    return 1 - sum(share for key, share in experiment.held.items() if key not in compared)


def control_of(experiment: Experiment) -> str:
    """Return the key of the control."""
    return experiment.definition.variants[experiment.definition.control_index].key


def _share_of_control(experiment: Experiment, policy: FixedPolicy, shares: Mapping[str, float]) -> float:
    """Return what the policy leaves to the control next to held shares (see `allocation.with_held`)."""
    control = control_of(experiment)
    holding = {key: share for key, share in {**experiment.held, **shares}.items() if key != control}
    free = {key: weight for key, weight in policy.weights.items() if key not in holding}
    total = sum(free.values())
    return (1 - sum(holding.values())) * (free[control] / total if total else 1.0)
