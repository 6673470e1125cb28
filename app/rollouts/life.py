"""A stored rollout, what people do to it, and the shares it holds. Pure."""

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
    Plan,
    Primary,
    Reading,
    RollBack,
    RolledBack,
    Running,
    State,
)
from app.rollouts.planner import control_share
from app.rollouts.steps import Approved, PausedByPerson, Resumed, Step


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, or what a person did: an event that is never changed. `by` is null for Wald's own."""

    number: int = 0
    decision: Step
    by: str | None = None
    reason: str = ""
    at: datetime


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """The last look: what it came to, and what was read for it.

    `called`: by a webhook, whose reason still stands and after which no other was sent.
    """

    at: datetime
    decision: Decision
    reading: Reading
    called: bool = False


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout of one or more variants of an experiment. `epoch`: the first of its data; 0: a draft."""

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
        """Where it is, also while it is paused. Raises Conflict before its start, and once it has ended."""
        match self.state:
            case Running():
                return self.state
            case Paused(running=running):
                return running
            case Draft():
                raise Conflict(f"rollout {self.id} is a draft: start it first", field="state")
            case RolledBack() | Completed():
                raise Conflict(f"rollout {self.id} has ended", field="state")


def next_stage(rollout: Rollout) -> Advance | Complete:
    """What comes after its stage. Raises Conflict once it has ended."""
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


def check_repeats(plan: Plan, reason: str, ended: Sequence[Rollout], harmed: int | None) -> None:
    """Refuse a request that was made before: it would undo how the rollout before has ended.

    `ended` are the newest ended rollouts of its canaries, the newest end first; `harmed` is the id of the
    newest one that proved harm. Canaries that were promoted would fall back to the first stage. Canaries that
    were harmed would get traffic again by the same request, when a job repeats it. A request that is meant
    names the newest of them in `after`: repeated, it is refused, because there is a newer one by then.

    Raises Conflict.
    """
    newest = ended[0] if ended else None
    if plan.after is not None and (newest is None or newest.id != plan.after):
        found = "no rollout of these canaries has ended" if newest is None else f"that is {newest.id}"
        raise Conflict(
            f"after must be the newest ended rollout of these canaries, got {plan.after}: {found}",
            field="after",
        )
    if newest is None or plan.after is not None:
        return
    again = f'to roll out once more on purpose, add "after": {newest.id}'
    for canary in plan.canaries:
        last = next((one for one in ended if canary in one.plan.canaries), None)
        if last is not None and isinstance(last.state, Completed) and canary in last.state.canaries:
            raise Conflict(
                f"rollout {last.id} has promoted {canary!r} already, and another one would take traffic from "
                f"it; {again}",
                field="canaries",
            )
    same = reason == newest.reason and _asked(plan, newest.plan) == _asked(newest.plan, plan)
    if same and newest.id == harmed:
        raise Conflict(
            f"rollout {newest.id} of the same request was rolled back for harm; {again}, or a new reason",
            field="canaries",
        )


def _asked(plan: Plan, other: Plan) -> Plan:
    """A plan as it was asked for: without baselines that the other one, not yet started, does not have."""

    def plain(one: Guardrail | Primary, beside: Guardrail | Primary | None) -> Guardrail | Primary:
        known = beside is not None and beside.baseline is not None
        return one if known else msgspec.structs.replace(one, baseline=None)

    keys = {one.metric.key: one for one in other.guardrails}
    return msgspec.structs.replace(
        plan,
        after=None,
        guardrails=tuple(plain(one, keys.get(one.metric.key)) for one in plan.guardrails),
        primary=None if plan.primary is None else plain(plan.primary, other.primary),
    )


def shares_held(experiment: Experiment, plan: Plan, state: State) -> dict[str, float]:
    """The shares that the experiment has to hold for its rollout.

    With variants besides control and canaries, the control is held as well while something is measured: under
    a policy that learns, at the planner's size, because its share would follow the rewards, and the
    comparison with it would not be one of constant shares; under a fixed one that would give it less than a
    canary, at the share of a canary.
    """
    shares = held(plan, state)
    control = control_of(experiment)
    others = set(experiment.definition.setting.variants) - {control, *plan.canaries}
    if not others or not isinstance(state, Running | Paused):
        return shares
    stage = state.running.stage if isinstance(state, Paused) else state.stage
    if stage < len(plan.measured_stages):
        share = plan.stages[stage].share
        left = room(experiment, plan) - share
        policy = experiment.definition.policy
        if not isinstance(policy, FixedPolicy):
            shares[control] = min(control_share(plan, stage), left)
        elif _share_of_control(experiment, policy, shares) < (least := share / len(plan.canaries)):
            shares[control] = min(least, left)
    return shares


def shares_after(experiment: Experiment, plan: Plan, state: State) -> dict[str, float]:
    """All that it holds then, also from rollouts before; a control that one of them held is free again."""
    kept = {key: share for key, share in experiment.held.items() if key != control_of(experiment)}
    return kept | shares_held(experiment, plan, state)


def room(experiment: Experiment, plan: Plan) -> float:
    """The share that rollouts before have left for the control and the canaries of this plan."""
    mine = {control_of(experiment), *plan.canaries}
    return 1 - sum(share for key, share in experiment.held.items() if key not in mine)


def control_of(experiment: Experiment) -> str:
    """The key of the control."""
    return experiment.definition.variants[experiment.definition.control_index].key


def _share_of_control(experiment: Experiment, policy: FixedPolicy, shares: Mapping[str, float]) -> float:
    """What the policy leaves the control beside the held shares of others: see `allocation.with_held`."""
    control = control_of(experiment)
    holding = {key: share for key, share in {**experiment.held, **shares}.items() if key != control}
    free = {key: weight for key, weight in policy.weights.items() if key not in holding}
    total = sum(free.values())
    return (1 - sum(holding.values())) * (free[control] / total if total else 1.0)
