"""The quality of variants: what a caller asks for, and the report. Pure."""

from typing import Final

import msgspec

from app.quality import limits

GUARANTEE: Final = (
    "valid at every look, if labels are a sample with known probabilities and the judge was not tuned on them"
)

Bounds = tuple[float, float]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question about quality: the judge, the level of intervals, and prices for the planner.

    `judge` and `version` name the judge; null: the most trusted one. A version is a hash or the
    beginning of one. `labels` is the number of further labels that the planner compares.
    """

    judge: str | None = None
    version: str | None = None
    level: float = 0.95
    labels: int = limits.PLANNED_LABELS
    label_cost_usd: float | None = None


class Judge(msgspec.Struct, frozen=True, kw_only=True):
    """A judge version with scores in the experiment.

    `cost_usd` is the mean known cost of a judgement, null if no price is known.
    """

    name: str
    version: str
    trust: str
    judgements: int
    cost_usd: float | None


class LabelPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Half the interval now, after more labels, and the judge calls that would do as much.

    `judge_calls` is null if no number of them would. Costs are null where a price is unknown.
    """

    half_width: float
    labels: int
    half_width_then: float
    cost_usd: float | None
    judge_calls: int | None
    judge_cost_usd: float | None
    text: str


class Contrast(msgspec.Struct, frozen=True, kw_only=True):
    """Difference of a variant's quality from the control's.

    `naive` is the difference of the judge's means at face value, and `removed_bias` how far it is
    above `effect`. The intervals of all variants hold together. `reason` says why a number is
    missing.
    """

    effect: float | None = None
    interval: Bounds | None = None
    interval_one_look: Bounds | None = None
    naive: float | None = None
    removed_bias: float | None = None
    reason: str = ""


class VariantQuality(msgspec.Struct, frozen=True, kw_only=True):
    """The quality of one variant: the mean human score, from 0 to 1, with the judge's help.

    `interval` is valid at every look, `interval_one_look` at one look that was planned before.
    `labels_alone` is the estimate without the judge. `judge_mean` is the judge's mean at face
    value, and `removed_bias` how far it is above `quality`. `label_gain` is how many times more
    labels would give the same precision without the judge. `reason` says why a number is missing,
    or why the judge does not help. `contrast` is null for the control.
    """

    variant: str
    control: bool
    judgements: int
    labels: int
    effective_labels: float
    quality: float | None = None
    interval: Bounds | None = None
    interval_one_look: Bounds | None = None
    labels_alone: float | None = None
    labels_alone_one_look: Bounds | None = None
    judge_mean: float | None = None
    removed_bias: float | None = None
    trust: float | None = None
    label_gain: float | None = None
    reason: str = ""
    plan: LabelPlan | None = None
    contrast: Contrast | None = None


class QualityReport(msgspec.Struct, frozen=True, kw_only=True):
    """Quality of each variant of an experiment.

    `judge` is the version whose scores were used; null if none has scored a response. `judges` are
    all versions with scores, the most trusted first.
    """

    experiment: str
    judge: Judge | None
    judges: list[Judge]
    level: float
    guarantee: str
    variants: list[VariantQuality]
