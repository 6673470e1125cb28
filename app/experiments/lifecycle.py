"""The life of an experiment: which state follows which, and what may change in each. Pure.

draft ──start──► running ◄──resume──┐
  │                │ └──pause──► paused
  │              stop              │
  │                ▼               │
  └──archive─┐  stopped ◄──stop────┘
             ▼     │
          archived ◄──archive
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, assert_never

import msgspec
from msgspec import UNSET, UnsetType

from app.core.errors import Conflict, FieldError, InvalidInput, UnprocessableInput
from app.core.text import Key
from app.experiments import metric_history
from app.experiments.catalogue import SignalKind
from app.experiments.checks import check
from app.experiments.metrics import Metric
from app.experiments.model import (
    Archived,
    Condition,
    Definition,
    Description,
    Draft,
    Experiment,
    LayerRange,
    Paused,
    ResponsePlan,
    Running,
    State,
    StateKind,
    Stickiness,
    Stopped,
    Unit,
    Variant,
    kind_of,
)
from app.experiments.plan import AnalysisPlan
from app.experiments.policies import Policy
from app.experiments.reward import Reward
from app.experiments.variants import check_change

ALLOWED: Final[dict[StateKind, tuple[str, ...]]] = {
    "draft": ("start", "archive"),
    "running": ("pause", "stop"),
    "paused": ("resume", "stop"),
    "stopped": ("archive",),
    "archived": (),
}
"""The transitions out of each state."""

_MEASURED: Final = frozenset({"metrics", "plan", "reward"})
_IN_FORCE: Final = frozenset(
    {
        *("description", "variants", "policy", "shadow_policy", "targeting", "overrides"),
        *("signals", "responses"),
        *_MEASURED,
    }
)
_CHANGEABLE: Final[dict[StateKind, frozenset[str]]] = {
    "draft": frozenset(Definition.__struct_fields__) - {"key"},
    "running": _IN_FORCE,
    "paused": _IN_FORCE,
    "stopped": frozenset({"description", "shadow_policy", "signals", "responses"}),
    "archived": frozenset(),
}


class DefinitionChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields of a definition to replace, each as a whole; fields that are left out stay.

    `reopen_plan` makes changed metrics of a running experiment part of the plan; it needs a
    `reason`. The history of the metrics keeps the reason.
    """

    key: Key | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    variants: tuple[Variant, ...] | UnsetType = UNSET
    unit: Key | UnsetType = UNSET
    stickiness: Stickiness | UnsetType = UNSET
    policy: Policy | UnsetType = UNSET
    shadow_policy: Policy | UnsetType | None = UNSET
    reward: Reward | UnsetType = UNSET
    metrics: tuple[Metric, ...] | UnsetType = UNSET
    plan: AnalysisPlan | UnsetType = UNSET
    targeting: tuple[Condition, ...] | UnsetType = UNSET
    overrides: dict[Unit, Key] | UnsetType = UNSET
    layer: LayerRange | UnsetType | None = UNSET
    responses: ResponsePlan | UnsetType = UNSET
    signals: dict[Key, SignalKind] | UnsetType = UNSET
    reason: Description = ""
    reopen_plan: bool = False


class HeldRange(msgspec.Struct, frozen=True, order=True):
    """The range [start, end) of a layer that an experiment holds while it runs or is paused."""

    start: float
    end: float
    experiment: str
    state: StateKind


class Layer(msgspec.Struct, frozen=True):
    """The ranges of a layer that experiments hold, and the free ones, both in order."""

    layer: str
    held: tuple[HeldRange, ...]
    free: tuple[tuple[float, float], ...]


def start(state: State, at: datetime) -> State:
    """Begin to assign and learn. Raises Conflict unless it is a draft."""
    match state:
        case Draft():
            return Running(at)
        case Running() | Paused() | Stopped() | Archived():
            raise _refusal("start", state)
        case _:
            assert_never(state)


def pause(state: State, at: datetime) -> State:
    """Answer the control for a while. Raises Conflict unless it is running."""
    match state:
        case Running(started_at):
            return Paused(started_at, at)
        case Draft() | Paused() | Stopped() | Archived():
            raise _refusal("pause", state)
        case _:
            assert_never(state)


def resume(state: State) -> State:
    """Assign again. Raises Conflict unless it is paused."""
    match state:
        case Paused(started_at):
            return Running(started_at)
        case Draft() | Running() | Stopped() | Archived():
            raise _refusal("resume", state)
        case _:
            assert_never(state)


def stop(state: State, at: datetime, winner: Key | None) -> State:
    """End it for good. Raises Conflict unless it is running or paused."""
    match state:
        case Running(started_at) | Paused(started_at):
            return Stopped(started_at, at, winner)
        case Draft() | Stopped() | Archived():
            raise _refusal("stop", state)
        case _:
            assert_never(state)


def archive(state: State, at: datetime) -> State:
    """Put it out of sight. Raises Conflict unless it is a draft or stopped."""
    match state:
        case Draft() | Stopped():
            return Archived(at)
        case Running() | Paused() | Archived():
            raise _refusal("archive", state)
        case _:
            assert_never(state)


def check_winner(definition: Definition, winner: Key | None) -> None:
    """Raise UnprocessableInput unless `winner` is one of the variants, or None."""
    if winner is not None and all(variant.key != winner for variant in definition.variants):
        keys = ", ".join(variant.key for variant in definition.variants)
        raise UnprocessableInput(f"no variant is called {winner!r}; there are {keys}", field="winner")


def check_layer(experiment: Experiment, holders: Sequence[Experiment]) -> None:
    """Raise Conflict if others of its layer hold a part of its range or randomise other units."""
    mine = experiment.definition.layer
    assert mine is not None
    errors = []
    for holder in holders:
        theirs = holder.definition.layer
        assert theirs is not None
        if mine.meets(theirs):
            reason = f"{holder.key} holds [{theirs.start:g}, {theirs.end:g}) of {mine.key}"
            errors.append(FieldError("layer", reason))
        elif holder.definition.unit != experiment.definition.unit:
            reason = (
                f"{holder.key} randomises {holder.definition.unit}: a layer keeps units of one kind apart"
            )
            errors.append(FieldError("unit", reason))
    if errors:
        raise Conflict("; ".join(error.reason for error in errors), errors=tuple(errors))


def ranges(layer: str, holders: Sequence[Experiment]) -> Layer:
    """Return the held and the free ranges of a layer."""
    held = sorted(
        HeldRange(mine.start, mine.end, holder.key, kind_of(holder.state))
        for holder in holders
        if (mine := holder.definition.layer) is not None
    )
    ends = [0.0, *(range_.end for range_ in held)]
    starts = [*(range_.start for range_ in held), 1.0]
    free = tuple((end, start) for end, start in zip(ends, starts, strict=True) if end < start)
    return Layer(layer, tuple(held), free)


def change(experiment: Experiment, request: DefinitionChange) -> Experiment:
    """Return the experiment with the requested fields; the same object if nothing differs.

    While the experiment runs or is paused, a new policy and new variants open a new epoch. Raises
    Conflict naming each field that must not change in this state, or that `variants.check_change`
    refuses. Raises InvalidInput if the changed definition does not fit together.
    """
    before = experiment.definition
    fields = msgspec.structs.asdict(request).items()
    requested = [(field, value) for field, value in fields if field in Definition.__struct_fields__]
    after = msgspec.structs.replace(
        before, **{field: value for field, value in requested if value is not UNSET}
    )
    different = {
        field: value
        for field, _ in requested
        if _as_json(value := getattr(after, field)) != _as_json(getattr(before, field))
    }
    if request.reopen_plan and not request.reason.strip():
        raise InvalidInput("re-opening the plan needs a reason", field="reason")
    kind = kind_of(experiment.state)
    if not different:
        adopts = request.reopen_plan and experiment.exploratory and kind in {"running", "paused"}
        return msgspec.structs.replace(experiment, planned=None) if adopts else experiment
    if refused := different.keys() - _CHANGEABLE[kind]:
        raise _unchangeable(kind, sorted(refused))
    definition = check(msgspec.structs.replace(before, **different))
    if not isinstance(experiment.state, Running | Paused):
        return msgspec.structs.replace(experiment, definition=definition)
    if different.keys() & _MEASURED:
        experiment = _measured_differently(experiment, definition, request)
    if not different.keys() & {"policy", "variants"}:
        return msgspec.structs.replace(experiment, definition=definition)
    check_change(experiment, definition)
    epoch = experiment.epoch + 1
    if definition.control_key == before.control_key:
        return msgspec.structs.replace(experiment, definition=definition, epoch=epoch)
    # The rollout that promoted the new control is over: the policy allocates all shares again.
    return msgspec.structs.replace(
        experiment, definition=definition, epoch=epoch, control_epoch=epoch, held={}
    )


def _measured_differently(experiment: Experiment, after: Definition, request: DefinitionChange) -> Experiment:
    """Return the experiment with the layouts and the plan that follow from changed metrics."""
    before = experiment.definition
    metric_history.check_change(experiment, after, reopen=request.reopen_plan)
    layouts, same_reward = experiment.layouts, before.reward == after.reward
    measures = [[(metric.key, metric.measure) for metric in side.metrics] for side in (before, after)]
    if measures[0] != measures[1] or before.plan.segments != after.plan.segments or not same_reward:
        layouts = layouts.following(
            before.metrics, before.plan.segments, measured=before.is_measured, same_reward=same_reward
        )
    planned = metric_history.planned_after(experiment, reopen=request.reopen_plan)
    return msgspec.structs.replace(experiment, layouts=layouts, planned=planned)


def opens_epoch(before: Experiment, after: Experiment) -> bool:
    """Return whether the allocation rule of `after` comes into force with this change."""
    started = isinstance(before.state, Draft) and isinstance(after.state, Running)
    return started or after.epoch > before.epoch


def _as_json(value: object) -> bytes:
    """Encode so that 1 and true differ and the order of keys does not matter."""
    return msgspec.json.encode(value, order="deterministic")


def _refusal(action: str, state: State) -> Conflict:
    kind = kind_of(state)
    allowed = " or ".join(ALLOWED[kind]) or "nothing"
    return Conflict(f"cannot {action} an experiment that is {kind}; allowed now: {allowed}", field="state")


def _unchangeable(kind: StateKind, fields: list[str]) -> Conflict:
    errors = []
    for field in fields:
        if field == "key":
            reason = "cannot change: create a new experiment"
        elif kind in {"running", "paused"}:
            reason = f"cannot change while {kind}: stop it and create a new experiment"
        else:
            reason = f"cannot change once {kind}: create a new experiment"
        errors.append(FieldError(field, reason))
    return Conflict("; ".join(f"{error.field} {error.reason}" for error in errors), errors=tuple(errors))
