"""The record of an experiment's present results on every metric, with a recommendation.

The interval of a comparison *is* the rule that decides: verdicts come from it alone. Its level
contains the correction for many metrics and variants, so a screen and a decision cannot differ.
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

    `pooled_effect` is shrunk towards the common effect as far as segments agree. It is an estimate at one
    look, not a decision.
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
    """One metric: its method with the guarantee, and every variant in the order of the experiment.

    `decided_on` names the interval that decides: that of the difference or, with a relative margin,
    that of the relative difference. An `exploratory` metric was added or corrected after the start.
    It decides nothing: its verdicts are corrected among the exploratory metrics alone.
    """

    key: str
    kind: str
    role: Role
    direction: Direction
    method: str | None
    guarantee: str | None
    decided_on: Literal["difference", "relative difference"]
    variants: tuple[VariantReadout, ...]
    exploratory: bool = False


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """A primary comparison with the other treatment of units that were in several variants.

    `crossovers` is that treatment: `exclude` or `first`. If its verdict differs, the result depends
    on these units.
    """

    metric: str
    variant: str
    crossovers: Literal["exclude", "first"]
    effect: float | None
    interval: Bounds | None
    verdict: ReadoutVerdict | None


class Leader(msgspec.Struct, frozen=True, kw_only=True):
    """The variant with the best primary metric; `declared` if it beats every other, each shown at `level`.

    It beats another variant if the interval of their difference, which misses with probability
    `level`, excludes 0. The level is that of primary comparisons, so a leader and a verdict cannot
    disagree. `undecided` are the variants that the leader does not yet beat.
    """

    variant: str
    declared: bool
    level: float
    undecided: tuple[str, ...]


class FloorProgress(msgspec.Struct, frozen=True):
    """The units and days to a decision if the exploration floor were `floor` from now on."""

    floor: float
    units_to_decide: int
    days_left: float | None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of an experiment. `share` is the part of the expected units that came.

    `units_to_decide` estimates the total units at which a decision can be expected, at the present
    shares: those at which the intervals of all variants are narrower than the minimum effect.
    Without a minimum effect it uses the present effect of the leader (or, if the control leads, of
    all variants), which is a guess. `days_left` is at the traffic so far. `at_floors` are the same
    with larger exploration floors, of a bandit that has not decided.
    """

    units: int
    expected_units: int
    share: float
    units_to_decide: int | None
    days_left: float | None
    at_floors: tuple[FloorProgress, ...] = ()


Action = Literal["fix_data", "stop_variant", "ship", "keep_control", "wait"]


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """A recommended action, in words with its reasons.

    `sentence` says what decides, what is missing and when it can be expected, and names every
    proven harm. `expected_loss` is what serving `variant` is expected to cost against the best
    other variant, in units of the primary metric: the average over what the data leave open, from
    logged propensities. `loss_bound` is the most that it costs, by the intervals that decide.
    """

    action: Action
    variant: str | None
    sentence: str
    reasons: tuple[str, ...]
    expected_loss: float | None = None
    loss_bound: float | None = None


class Readout(msgspec.Struct, frozen=True, kw_only=True):
    """All results of an experiment at one moment.

    It has a `frontier` if two metrics or more decide, and a `sensitivity` if units were in several
    variants.
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
