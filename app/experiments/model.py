"""The words of an experiment: variants, definition, and the states of its life. Pure."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, NewType, assert_never, get_args

import msgspec

from app.core.limits import DESCRIPTION_LENGTH_MAX, UNIT_LENGTH_MAX
from app.core.text import Key
from app.experiments import limits
from app.experiments.catalogue import SignalKind
from app.experiments.layouts import Layouts
from app.experiments.metrics import Metric
from app.experiments.plan import AnalysisPlan
from app.experiments.policies import Policy, ThompsonPolicy
from app.experiments.policies.rule import Setting, Share
from app.experiments.reward import Reward

ExperimentKey = NewType("ExperimentKey", str)

Description = Annotated[str, msgspec.Meta(max_length=DESCRIPTION_LENGTH_MAX)]
Stickiness = Literal["none", "unit", "strict"]
Unit = Annotated[str, msgspec.Meta(min_length=1, max_length=UNIT_LENGTH_MAX)]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A variant that can be served. The caller gets `payload` as it is.

    A `retired` variant keeps its data and its place but gets no more units, except by an override.
    """

    key: Key
    control: bool = False
    payload: Any = msgspec.field(default_factory=dict)
    retired: bool = False


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One requirement on the context, as `targeting.matches` reads it.

    `values`: at least one for `in` and `not_in`, one number for `greater` and `less`, none for
    `exists`.
    """

    attribute: Key
    operator: Literal["in", "not_in", "greater", "less", "exists"]
    values: tuple[str | float | bool, ...] = ()


class LayerRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The units of a layer that take part: those whose point in it lies in [start, end).

    A layer is a hash space that experiments share. Each unit has one fixed point in it. No two
    running experiments hold the same point, so no unit is in both. Points without an experiment are
    a holdout.

    Raises ValueError unless the range holds at least `LAYER_RANGE_MIN`.
    """

    key: Key
    start: Share = 0.0
    end: Share = 1.0

    def __post_init__(self) -> None:
        if round(self.end - self.start, 9) < limits.LAYER_RANGE_MIN:
            least = limits.LAYER_RANGE_MIN
            raise ValueError(
                f"end must be at least {least:g} above start, got {self.start:g} and {self.end:g}"
            )

    def meets(self, other: "LayerRange") -> bool:
        """Return whether some unit of the same layer is in both."""
        return self.start < other.end and other.start < self.end


class ResponsePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules for the texts of an experiment's responses.

    `redact` names the redactors that remove personal data before anything is stored. Texts are kept
    for `retention_days`.
    """

    redact: tuple[Key, ...] = ()
    retention_days: Annotated[int, msgspec.Meta(ge=1, le=limits.RETENTION_DAYS_MAX)] = limits.RETENTION_DAYS


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question with two or more variants. `checks.check` says whether its parts fit together.

    `metrics` and `plan` say how it is judged. Later changes of metrics are marked. Units that meet
    all conditions of `targeting` take part; `overrides` gives a variant to single units. With a
    `layer`, only units in its range take part, and they are in no other experiment of the layer.
    `shadow_policy` reads the totals that `policy` gathers and is compared with it, but never
    serves. `signals` declares kinds of signals that the catalogue does not have.
    """

    key: Key
    description: Description = ""
    variants: tuple[Variant, ...]
    unit: Key = "request"
    stickiness: Stickiness = "none"
    policy: Policy = ThompsonPolicy()
    shadow_policy: Policy | None = None
    reward: Reward = msgspec.field(default_factory=Reward)
    metrics: tuple[Metric, ...] = ()
    plan: AnalysisPlan = AnalysisPlan()
    targeting: tuple[Condition, ...] = ()
    overrides: dict[Unit, Key] = msgspec.field(default_factory=dict)
    layer: LayerRange | None = None
    responses: ResponsePlan = ResponsePlan()
    signals: dict[Key, SignalKind] = {}

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "reward", self.reward.completed(self.signals))

    @property
    def active(self) -> tuple[int, ...]:
        """Positions in `variants` of those that are not retired."""
        return tuple(index for index, variant in enumerate(self.variants) if not variant.retired)

    @property
    def setting(self) -> Setting:
        """The parts that a policy depends on, with the active variants alone."""
        active = [self.variants[index] for index in self.active]
        keys = tuple(variant.key for variant in active)
        control = next((index for index, variant in enumerate(active) if variant.control), 0)
        return Setting(self.key, keys, control, self.reward.range, self.metrics)

    @property
    def reads_silence(self) -> bool:
        """Whether a horizon that passes without a signal gives a metric a value."""
        return any(metric.reads_silence for metric in self.metrics)

    @property
    def is_measured(self) -> bool:
        """Whether the ledger measures units, not only rewards."""
        declared = self.metrics or self.plan.segments or self.plan.covariates
        return bool(declared) or self.stickiness != "none"

    @property
    def control_index(self) -> int:
        """Position of the control in `variants`."""
        return next(index for index, variant in enumerate(self.variants) if variant.control)

    @property
    def control_key(self) -> str:
        """Key of the control."""
        return self.variants[self.control_index].key


class Draft(msgspec.Struct, frozen=True, tag_field="kind", tag="draft"):
    """Defined, never started: everything may still change."""


class Running(msgspec.Struct, frozen=True, tag_field="kind", tag="running"):
    """Assigning and learning."""

    started_at: datetime


class Paused(msgspec.Struct, frozen=True, tag_field="kind", tag="paused"):
    """Answers the control, learns from feedback that still arrives."""

    started_at: datetime
    paused_at: datetime


class Stopped(msgspec.Struct, frozen=True, tag_field="kind", tag="stopped"):
    """Stopped for good. Answers the winner, or the control if there is no winner."""

    started_at: datetime
    stopped_at: datetime
    winner: Key | None = None


class Archived(msgspec.Struct, frozen=True, tag_field="kind", tag="archived"):
    """Out of sight: no longer listed by default, never assigned, its log kept."""

    archived_at: datetime


State = Draft | Running | Paused | Stopped | Archived
StateKind = Literal["draft", "running", "paused", "stopped", "archived"]
STATE_KINDS: Final[tuple[StateKind, ...]] = get_args(StateKind)


def kind_of(state: State) -> StateKind:
    """Return the name of a state."""
    match state:
        case Draft():
            return "draft"
        case Running():
            return "running"
        case Paused():
            return "paused"
        case Stopped():
            return "stopped"
        case Archived():
            return "archived"
        case _:
            assert_never(state)


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """A stored experiment: its definition and its state.

    `held` are the shares of a rollout, which do not depend on the policy. The other variants share
    the remainder. `killed`: the control is served everywhere, whatever state and policy say.
    `control_epoch` is the first epoch of the present control: comparisons begin there. `layouts`
    are those of its stored totals. `planned` are the metrics of the plan: those at the start, or
    when the plan was last re-opened; None: the metrics of the definition.
    """

    id: int
    definition: Definition
    state: State
    salt: bytes
    epoch: int
    revision: int
    created_at: datetime
    updated_at: datetime
    held: dict[str, float] = {}
    killed: bool = False
    control_epoch: int = 1
    layouts: Layouts = Layouts()
    planned: tuple[Metric, ...] | None = None

    @property
    def exploratory(self) -> frozenset[str]:
        """Keys of the metrics that were added or corrected after the start, outside of the plan."""
        if self.planned is None:
            return frozenset()
        return frozenset(metric.key for metric in self.definition.metrics if metric not in self.planned)

    @property
    def key(self) -> ExperimentKey:
        """The definition's key."""
        return ExperimentKey(self.definition.key)
