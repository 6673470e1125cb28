"""The record of what an experiment says now, on every metric, and what to do about it.

The interval of a comparison *is* the rule that decides: verdicts are read off it and nothing else. Its level
contains the correction for many metrics and variants, so what is drawn on a screen and what is decided
cannot differ.
"""

from typing import Literal

import msgspec

from app.analysis.bounds import Bounds
from app.analysis.harm.verdict import ReadoutVerdict
from app.analysis.integrity import Finding
from app.analysis.readout.frontier import Frontier
from app.experiments.metrics import Direction
from app.experiments.plan import AnalysisPlan
from stats.multiplicity import Role


class SegmentEffect(msgspec.Struct, frozen=True, kw_only=True):
    """The effect in one segment, by the method of the comparison and corrected for the number of segments.

    `pooled_effect` is drawn towards the common effect as far as segments agree, with its standard error; it
    is an estimate at one look, not a decision.
    """

    segment: str
    effect: float | None
    interval: Bounds | None
    pooled_effect: float | None
    pooled_standard_error: float | None


class VariantReadout(msgspec.Struct, frozen=True, kw_only=True):
    """One variant on one metric.

    `estimate` and `control_estimate` are weighted alike over epochs. Everything about the effect is null for
    the control and while there is not enough data, as `reason` says. `level` is the probability with which
    `interval` misses (for a guardrail, each of its bounds). `e_value` is against no difference and valid at
    every look. `variance_reduction` is the share of variance that covariates took away. `unbiased_effect` is
    the median-unbiased effect of a group sequential plan that has ended.
    """

    variant: str
    control: bool
    units: int
    missing: int
    estimate: float | None = None
    control_estimate: float | None = None
    effect: float | None = None
    interval: Bounds | None = None
    relative_effect: float | None = None
    relative_interval: Bounds | None = None
    level: float | None = None
    e_value: float | None = None
    p_value: float | None = None
    verdict: ReadoutVerdict | None = None
    reason: str = ""
    variance_reduction: float | None = None
    unbiased_effect: float | None = None
    segments: tuple[SegmentEffect, ...] = ()
    interaction_p_value: float | None = None


class MetricReadout(msgspec.Struct, frozen=True, kw_only=True):
    """One metric: by which method, what that guarantees, and every variant in the order of the experiment.

    `decided_on` says which interval the verdicts are read off: that of the difference, or (with a relative
    margin) of the relative difference.
    """

    key: str
    kind: str
    role: Role
    direction: Direction
    method: str | None
    guarantee: str | None
    decided_on: Literal["difference", "relative difference"]
    variants: tuple[VariantReadout, ...]


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """A primary comparison as it would be with units of several variants treated the other way.

    `crossovers` is that other way: `exclude`, or `first`. Where its verdict is another one, the answer hangs
    on units that were given more than one.
    """

    metric: str
    variant: str
    crossovers: Literal["exclude", "first"]
    effect: float | None
    interval: Bounds | None
    verdict: ReadoutVerdict | None


class Leader(msgspec.Struct, frozen=True, kw_only=True):
    """The variant with the best primary metric; `declared` if it beats every other, each shown at `level`.

    With k variants each comparison is one-sided at alpha / (k - 1): if another variant is the truly best
    one, only the k - 1 comparisons with *that* one can declare a wrong leader, so the error is at most
    alpha. `undecided` are the variants it does not yet beat.
    """

    variant: str
    declared: bool
    level: float
    undecided: tuple[str, ...]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is. `share` is of the expected units.

    `units_to_decide` is about how many units in all until the primary intervals of all variants are narrower
    than the minimum effect (without one, than the effect seen now, which is a guess); `days_left` at the
    traffic so far.
    """

    units: int
    expected_units: int
    share: float
    units_to_decide: int | None
    days_left: float | None


Action = Literal["fix_data", "stop_variant", "ship", "keep_control", "wait"]


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, in one sentence, with its reasons."""

    action: Action
    variant: str | None
    sentence: str
    reasons: tuple[str, ...]


class Readout(msgspec.Struct, frozen=True, kw_only=True):
    """All that an experiment says at one moment; `frontier` where two metrics or more decide.

    `sensitivity` where units came to several variants.
    """

    control: str
    plan: AnalysisPlan
    adaptive: bool
    units: int
    metrics: tuple[MetricReadout, ...]
    leader: Leader | None
    frontier: Frontier | None = None
    sensitivity: tuple[Sensitivity, ...] = ()
    integrity: tuple[Finding, ...]
    progress: Progress
    recommendation: Recommendation
