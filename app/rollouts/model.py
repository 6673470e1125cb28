"""The types of a rollout: its plan, its states, readings and decisions. Pure.

*Harm*: the canary is proven worse than the concurrent control. *Safe*: it is proven to be worse by
less than the margin of the guardrail, or not worse at all. Both proofs hold at every look (see
`verdicts`).
"""

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec

from app.analysis.bounds import Bounds
from app.analysis.harm.question import Baseline, Proof
from app.analysis.harm.verdict import Verdict
from app.analysis.integrity import Finding
from app.analysis.readout.record import MetricReadout
from app.core.limits import SIGNAL_VALUE_MAX, VARIANTS_MAX
from app.core.text import Key
from app.experiments.limits import METRICS_MAX
from app.experiments.metrics import Margin, Mean, Metric, Proportion, QuantileOf
from app.rollouts import limits

StageShare = Annotated[float, msgspec.Meta(gt=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=limits.ROLLOUT_STAGE_S_MAX)]
Level = Annotated[float, msgspec.Meta(ge=1e-6, le=0.4)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=SIGNAL_VALUE_MAX)]
Value = Annotated[float, msgspec.Meta(ge=-SIGNAL_VALUE_MAX, le=SIGNAL_VALUE_MAX)]

DAY_S: Final = 86_400.0
HOUR_S: Final = 3_600.0


# Guardrails


class Guardrail(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric that must not get worse by more than its margin, and its test.

    `sequence`: evidence against "no worse" and against "worse by the margin or more", strong over a
    range of effects. `sprt`: Wald's test of "no worse" against "worse by exactly the margin", for
    proportions and means; it is the fastest test if the effect is the margin.

    Raises ValueError unless the metric is a guardrail, or if an `sprt` has another kind of metric.
    """

    metric: Metric
    baseline: Baseline | None = None
    test: Literal["sequence", "sprt"] = "sequence"

    def __post_init__(self) -> None:
        if self.metric.role != "guardrail":
            raise ValueError(f"{self.metric.key!r} must have the role guardrail; got {self.metric.role}")
        if self.test == "sprt" and not isinstance(self.metric.measure, Proportion | Mean):
            raise ValueError(
                f"test sprt needs a proportion or a mean; {self.metric.key!r} is a {self.metric.kind}"
            )

    @property
    def margin(self) -> Margin:
        """Margin by which the metric may get worse."""
        margin = self.metric.margin
        assert margin is not None, "a guardrail has a margin"
        return margin


def _guardrail(
    key: str,
    measure: Proportion | Mean | QuantileOf,
    worse: Literal["higher", "lower"],
    size: float,
    *,
    relative: bool,
) -> Metric:
    better: Literal["higher", "lower"] = "lower" if worse == "higher" else "higher"
    margin = Margin(size=size, relative=relative)
    return Metric(key=key, measure=measure, role="guardrail", direction=better, margin=margin)


PRESETS: Final = {
    metric.key: metric
    for metric in (
        _guardrail("latency", Mean("latency"), "higher", 0.10, relative=True),
        _guardrail("latency_p95", QuantileOf("latency", 0.95), "higher", 0.20, relative=True),
        _guardrail("error_rate", Proportion("error", silence=0), "higher", 0.02, relative=False),
        _guardrail("judge_score", Mean("judge_score"), "lower", 0.10, relative=True),
        _guardrail("guardrail", Proportion("guardrail"), "lower", 0.02, relative=True),
        _guardrail("thumbs_down", Proportion("thumbs_down", silence=0), "higher", 0.15, relative=True),
        _guardrail("abandonment", Proportion("abandoned", silence=0), "higher", 0.20, relative=True),
    )
}
"""Guardrails that a request may name, on signals with conventional names."""


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hard limit, which trips at once if the canary's estimate is beyond it and the control's is not.

    Beyond means above if lower is better, else below. It is a point estimate without an error rate: set
    it far outside of the normal range. `units_min` units of the canary must have a value.
    """

    metric: Key
    beyond: Value
    units_min: Annotated[int, msgspec.Meta(ge=10, le=10**9)] = 50


class Primary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A claim that must be proven, at the plan's `beta`, before the canary gets all traffic.

    `non_inferior`: worse by less than the metric's margin. `superior`: better.

    Raises ValueError if a non-inferiority test has no margin.
    """

    metric: Metric
    test: Literal["non_inferior", "superior"] = "non_inferior"
    baseline: Baseline | None = None

    def __post_init__(self) -> None:
        if self.test == "non_inferior" and self.metric.margin is None:
            raise ValueError(f"a non-inferiority test of {self.metric.key!r} needs a margin")


# Plans


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A share of the traffic for all canaries together, and the conditions for going on.

    The stage lasts at least `duration_s` and `units_min` units of each canary. After
    `duration_max_s` without an answer, `then` applies. With `approval` a person must agree before
    the next stage.

    Raises ValueError if `duration_max_s` is below `duration_s`.
    """

    share: StageShare
    duration_s: Seconds = HOUR_S
    units_min: Annotated[int, msgspec.Meta(ge=0, le=10**12)] = 0
    duration_max_s: Seconds | None = None
    then: Literal["hold", "rollback", "ask"] = "hold"
    approval: bool = False

    def __post_init__(self) -> None:
        if self.duration_max_s is not None and self.duration_max_s < self.duration_s:
            raise ValueError(
                f"duration_max_s must be at least duration_s, {self.duration_s:g}; "
                f"got {self.duration_max_s:g}"
            )


STAGES: Final = (Stage(share=0.01, duration_s=DAY_S), Stage(share=0.05), Stage(share=0.25), Stage(share=1.0))
"""The default ramp. The first stage sees a whole day of traffic."""


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hours of the week, in UTC, in which a rollout may advance; it may roll back at any time.

    `weekdays` count from 0, Monday. The window begins at `from_hour` and ends before `to_hour`.

    Raises ValueError unless `from_hour` is below `to_hour`.
    """

    weekdays: tuple[Annotated[int, msgspec.Meta(ge=0, le=6)], ...] = (0, 1, 2, 3, 4, 5, 6)
    from_hour: Annotated[int, msgspec.Meta(ge=0, le=23)] = 0
    to_hour: Annotated[int, msgspec.Meta(ge=1, le=24)] = 24

    def __post_init__(self) -> None:
        if not self.from_hour < self.to_hour:
            raise ValueError(f"from_hour must be below to_hour, got {self.from_hour} and {self.to_hour}")


Canaries = Annotated[tuple[Key, ...], msgspec.Meta(min_length=1, max_length=VARIANTS_MAX)]
Stages = Annotated[tuple[Stage, ...], msgspec.Meta(min_length=1, max_length=limits.ROLLOUT_STAGES_MAX)]
Windows = Annotated[tuple[Window, ...], msgspec.Meta(max_length=limits.ROLLOUT_WINDOWS_MAX)]
Limits = Annotated[tuple[Limit, ...], msgspec.Meta(max_length=limits.ROLLOUT_GUARDRAILS_MAX)]
Guardrails = Annotated[
    tuple[Guardrail, ...], msgspec.Meta(min_length=1, max_length=limits.ROLLOUT_GUARDRAILS_MAX)
]
NamedGuardrails = Annotated[
    tuple[Key | Guardrail, ...], msgspec.Meta(min_length=1, max_length=limits.ROLLOUT_GUARDRAILS_MAX)
]
RolloutId = Annotated[int, msgspec.Meta(ge=1, le=limits.ROLLOUT_ID_MAX)]
Secondary = Annotated[tuple[Metric, ...], msgspec.Meta(max_length=METRICS_MAX)]


class Ramp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields that a plan and the request for one have in common.

    * `alpha`: the probability that canaries that are no worse than the control are ever rolled back, over
      all guardrails, stages and looks.
    * `beta`: the probability that a canary that breaks a margin advances from a stage.
    * `windows`: when the rollout may advance; empty means always.
    * `data_age_max_s`: older data count as missing.
    * `after`: the id of the newest ended rollout of these canaries, to roll them out again on purpose.
    """

    canaries: Canaries
    stages: Stages = STAGES
    windows: Windows = ()
    limits: Limits = ()
    alpha: Level = 0.01
    beta: Level = 0.05
    data_age_max_s: Annotated[float, msgspec.Meta(ge=1, le=DAY_S)] = 300.0
    after: RolloutId | None = None


class RolloutPlan(Ramp, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The full plan, stored with every decision; `checks.check` checks that its parts fit."""

    guardrails: Guardrails
    primary: Primary | None = None
    secondary: Secondary = ()

    @property
    def measured_stages(self) -> tuple[Stage, ...]:
        """Stages with a control: all but a stage with all traffic."""
        return tuple(stage for stage in self.stages if stage.share < 1)


class PrimaryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric of the experiment, by its key. The default margin is that of the metric."""

    metric: Key
    test: Literal["non_inferior", "superior"] = "non_inferior"
    margin: Margin | None = None


class RolloutPlanRequest(Ramp, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A requested plan: guardrails may be names of presets or of metrics of the experiment."""

    guardrails: NamedGuardrails
    primary: PrimaryRequest | None = None


# Life


class Draft(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="draft"):
    """A planned rollout: it holds no share and reads no data until a person starts it."""


class Running(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="running"):
    """A rollout in a stage (by its position) since `entered_at`; `epoch` is the first one of the stage.

    `canaries` are those that were not rolled back. `approved`: a person agreed to leave this stage.
    """

    stage: int
    entered_at: datetime
    epoch: int
    canaries: tuple[str, ...]
    approved: bool = False

    @property
    def running(self) -> "Running":
        """The state itself, so that a running and a paused rollout answer alike."""
        return self


class Paused(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="paused"):
    """A rollout that does not advance. Looks go on, and harm rolls it back."""

    running: Running
    paused_at: datetime


class RolledBack(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="rolled_back"):
    """An ended rollout: no canary has any traffic."""

    stage: int
    ended_at: datetime


class Completed(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="completed"):
    """An ended rollout: the canaries have the share of the last stage."""

    canaries: tuple[str, ...]
    ended_at: datetime


State = Draft | Running | Paused | RolledBack | Completed


# What is read


class GuardrailReading(msgspec.Struct, frozen=True, kw_only=True):
    """One guardrail and canary at one look.

    `harm` is the strongest proof over all starts, `safe` that of the stage's own data. Estimates,
    `effect` and `interval` are of the data of `harm` if there is one, else of the stage's own data.
    The effect is canary less control, or relative to the control if `relative`. Each bound of the
    interval misses with the level of its proof. `missing`: units came, but their values are not
    known in time. `units_left` of the canary and `seconds_left` at the pace of the stage are
    expected until an answer; null if unknown.
    """

    metric: str
    canary: str
    verdict: Verdict
    method: str | None = None
    control_units: int = 0
    canary_units: int = 0
    control_estimate: float | None = None
    canary_estimate: float | None = None
    relative: bool = False
    effect: float | None = None
    interval: Bounds | None = None
    harm: Proof | None = None
    safe: Proof | None = None
    missing: bool = False
    reason: str = ""
    units_left: int | None = None
    seconds_left: float | None = None


class LimitReading(msgspec.Struct, frozen=True, kw_only=True):
    """One limit and canary at one look, in the newest epoch."""

    metric: str
    canary: str
    beyond: float
    canary_units: int
    canary_estimate: float | None
    control_estimate: float | None
    tripped: bool


class PrimaryReading(msgspec.Struct, frozen=True, kw_only=True):
    """The primary metric of one canary, from all data of the rollout; `shown` if it is proven."""

    metric: str
    canary: str
    test: Literal["non_inferior", "superior"]
    shown: bool
    method: str | None = None
    effect: float | None = None
    interval: Bounds | None = None
    reason: str = ""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """All readings of one look, on which a decision rests.

    `stage_units` are the units of each canary in the stage. `data_age_s` is the lag of the totals;
    null if it is unknown.
    """

    guardrails: tuple[GuardrailReading, ...]
    limits: tuple[LimitReading, ...] = ()
    primary: tuple[PrimaryReading, ...] = ()
    secondary: tuple[MetricReadout, ...] = ()
    integrity: tuple[Finding, ...] = ()
    stage_units: dict[str, int] = {}
    data_age_s: float | None = None


# What is decided


HoldReason = Literal[
    "draft", "ended", "paused", "integrity", "missing_data", "minimum_duration", "minimum_units",
    "not_enough_data", "primary", "window", "overdue",
]  # fmt: skip


class Advance(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="advance"):
    """The rollout goes to the stage at this position."""

    to_stage: int


class Complete(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="complete"):
    """The canaries get the share of the last stage for good."""


class Hold(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="hold"):
    """Nothing changes. `alert`: a person should look."""

    reason: HoldReason
    detail: str
    alert: bool = False


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="ask"):
    """A person must decide: to approve leaving a stage, or about a stage that is overdue."""

    reason: Literal["approval", "overdue"]
    detail: str


class RollBack(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="roll_back"):
    """The rollback of these canaries, which get no more traffic. `ended`: the experiment has ended."""

    canaries: tuple[str, ...]
    reason: Literal["harm", "limit", "overdue", "person", "ended"]
    detail: str


Decision = Advance | Complete | Hold | Ask | RollBack
