"""The readout from definitions and totals. Pure: no I/O, no clock, no chance."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from app.analysis.balance import balance_findings, unused_findings
from app.analysis.bounds import Bounds, bounds_of
from app.analysis.evidence.comparison import Comparison, compare, known_means
from app.analysis.evidence.effect import EVERY_LOOK, Evidence
from app.analysis.evidence.planned import GroupSequentialEvidence, closed
from app.analysis.harm.question import Answer
from app.analysis.harm.verdict import UNDECIDED, ReadoutVerdict, verdict_of
from app.analysis.integrity import AA_ALPHA, Finding, findings
from app.analysis.observed import Observed
from app.analysis.readout.forecast import Pair, Question, Serving, progress_of
from app.analysis.readout.frontier import Frontier, frontier_of
from app.analysis.readout.guardrails import ask, difference_interval, is_shared, with_answer
from app.analysis.readout.leader import UNANSWERED, active, excludes_zero, leader_of, loss_of, turned
from app.analysis.readout.recommendation import Situation, recommend
from app.analysis.readout.record import (
    Leader,
    MetricReadout,
    Readout,
    SegmentEffect,
    VariantReadout,
)
from app.experiments.metrics import Metric
from app.experiments.plan import AnalysisPlan
from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.heterogeneity import partial_pooling
from stats.interval import Interval
from stats.multiplicity import Role, family_level

_ROUNDING: Final = 1e-12
"""A difference below this part of a constant is a rounding error."""


class Unanswered(msgspec.Struct, frozen=True):
    """The reason why there is no comparison, and the means of (control, treatment) if known.

    `constant`: in each variant all units have the same value.
    """

    reason: str
    means: tuple[float, float] | None = None
    constant: bool = False


Found = Comparison | Answer | Unanswered
"""A comparison, the answer about a guardrail, or the reason why there is neither."""
Compared = Mapping[str, Mapping[str, Found]]
"""What was found, per metric and treatment."""


def analyze(
    plan: AnalysisPlan, metrics: Sequence[Metric], observed: Observed, serving: Serving | None = None
) -> Readout:
    """Return the readout of these metrics; forecasts are at the shares that are served, if known.

    Raises ValueError without metrics or if a key repeats.
    """
    keys = [metric.key for metric in metrics]
    if not keys or len(set(keys)) != len(keys):
        raise ValueError(f"needs metrics with different keys, got {', '.join(keys) or 'none'}")
    compared = _all_compared(plan, metrics, observed)
    levels = _levels(plan, metrics, compared)
    shown = _shown(plan, metrics, observed, compared, levels)
    checked = (
        *findings(observed),
        *balance_findings(plan, observed),
        *unused_findings(metrics, observed),
        *(_same_variants(shown) if plan.aa else ()),
    )
    primary = next((metric for metric in metrics if metric.role == "primary"), None)
    level = levels["primary"]
    leader = None if primary is None else leader_of(primary, plan, observed, level)
    question = None
    if primary is not None and leader is not None:
        question = _question(primary, plan, observed, compared[primary.key], leader)
    progress = progress_of(plan, observed, question, serving)
    situation = Situation(
        plan=plan,
        adaptive=observed.adaptive,
        control=observed.control,
        treatments=active(observed, observed.treatments),
        metrics=shown,
        findings=checked,
        progress=progress,
        leader=leader,
        losses=lambda variant: loss_of(primary, plan, observed, variant, level),
    )
    return Readout(
        control=observed.control,
        plan=plan,
        adaptive=observed.adaptive,
        units=observed.units(),
        metrics=shown,
        leader=leader,
        frontier=_frontier(metrics, observed),
        integrity=checked,
        progress=progress,
        recommendation=recommend(situation),
    )


def metric_readouts(
    plan: AnalysisPlan, metrics: Sequence[Metric], observed: Observed
) -> tuple[MetricReadout, ...]:
    """Return the part of the readout about each metric alone."""
    compared = _all_compared(plan, metrics, observed)
    return _shown(plan, metrics, observed, compared, _levels(plan, metrics, compared))


def _all_compared(plan: AnalysisPlan, metrics: Sequence[Metric], observed: Observed) -> Compared:
    return {
        metric.key: {arm: _compared(metric, plan, observed, arm) for arm in observed.treatments}
        for metric in metrics
    }


def _shown(
    plan: AnalysisPlan,
    metrics: Sequence[Metric],
    observed: Observed,
    compared: Compared,
    levels: Mapping[Role, float],
) -> tuple[MetricReadout, ...]:
    return tuple(
        _metric_readout(metric, plan, observed, compared[metric.key], levels[metric.role])
        for metric in metrics
    )


def _compared(metric: Metric, plan: AnalysisPlan, observed: Observed, arm: str) -> Found:
    """Ask all that the readout will ask, so that one bad metric takes nothing from the others."""
    try:
        if is_shared(metric, plan, observed):
            return ask(metric, observed, arm, plan.alpha)
        comparison = compare(metric, plan, observed, arm)
        evidence = comparison.evidence
        evidence.interval(plan.alpha)
        _ = evidence.means, evidence.e_value, evidence.p_value, evidence.standard_error
    except UNANSWERED as error:
        return _unanswered(metric, observed, arm, _reason(error))
    return comparison


def _unanswered(metric: Metric, observed: Observed, arm: str, reason: str) -> Unanswered:
    try:
        known = known_means(metric, observed, arm)
    except UNANSWERED:
        known = None
    return Unanswered(reason) if known is None else Unanswered(reason, known[0], constant=not known[1])


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, InsufficientData) else f"cannot be computed: {error}"


def _same_variants(metrics: Sequence[MetricReadout]) -> tuple[Finding, ...]:
    """Check an A/A test: identical variants must have the same results.

    An e-value of m / `AA_ALPHA` over the m comparisons of primary metrics is a fault at any look.
    """
    compared = [
        (metric.key, variant, variant.e_value)
        for metric in metrics
        if metric.role == "primary"
        for variant in metric.variants
        if variant.e_value
    ]
    faults = [
        Finding(
            kind="aa",
            severity="broken",
            detail=f"{key} of {variant.variant} differs from the control's, although both are the same",
            p_value=min(1 / e_value, 1.0),
            variant=variant.variant,
            size=abs(variant.effect or 0.0),
        )
        for key, variant, e_value in compared
        if e_value * AA_ALPHA >= len(compared)
    ]
    if compared and not faults:
        detail = "identical variants have the same results"
        return (Finding(kind="aa", severity="fine", detail=detail),)
    return tuple(faults)


# Levels


def _levels(plan: AnalysisPlan, metrics: Sequence[Metric], compared: Compared) -> dict[Role, float]:
    """Return the level of each role: Bonferroni for primary metrics, the plan's for secondary ones."""

    def family(role: Role) -> list[Callable[[float], bool] | None]:
        return [
            partial(excludes_zero, comparison.evidence) if isinstance(comparison, Comparison) else None
            for metric in metrics
            if metric.role == role
            for comparison in compared[metric.key].values()
        ]

    return {
        "primary": family_level(family("primary"), plan.alpha, "bonferroni"),
        "secondary": family_level(family("secondary"), plan.alpha, plan.correction),
        "guardrail": plan.alpha,
    }


# Metrics and variants


def verdict(metric: Metric, interval: Interval | None, relative: Interval | None) -> ReadoutVerdict:
    """Return what the interval proves, turned so that more is better (see `harm.verdict`).

    *better*: all of it above 0. *within the margin*: all of it above -margin. *worse*: all of it
    below 0.

    Worked by hand: a latency (lower is better) with margin 0.1 and [0.01, 0.05] turns into [-0.05,
    -0.01]: safe.
    """
    if interval is None:
        return "not_enough_data"
    towards = turned(interval, metric.direction)
    if towards.lower > 0:
        return "better"
    within = False
    if metric.margin is not None:
        judged = relative if metric.margin.relative else interval
        within = judged is not None and turned(judged, metric.direction).lower > -metric.margin.size
    return verdict_of(worse=towards.upper < 0, within=within)


def _metric_readout(
    metric: Metric,
    plan: AnalysisPlan,
    observed: Observed,
    compared: Mapping[str, Found],
    level: float,
) -> MetricReadout:
    known = [
        (result, EVERY_LOOK) if isinstance(result, Answer) else (result.evidence, result.evidence.guarantee)
        for result in compared.values()
        if not isinstance(result, Unanswered)
    ]
    means = [result.means for result, _ in known] + [
        result.means
        for result in compared.values()
        if isinstance(result, Unanswered) and result.means is not None
    ]
    variants = []
    for arm in observed.variants:
        totals = observed.totals(metric.key, arm)
        units = 0 if totals is None else totals.n
        shown = VariantReadout(
            variant=arm, control=arm == observed.control, units=units, missing=observed.units(arm) - units
        )
        if arm == observed.control:
            variants.append(msgspec.structs.replace(shown, estimate=means[0][0] if means else None))
        elif isinstance(comparison := compared[arm], Unanswered):
            variants.append(_without_interval(shown, comparison))
        else:
            variants.append(
                _with_comparison(shown, metric, comparison, plan=plan, observed=observed, level=level)
            )
    return MetricReadout(
        key=metric.key,
        kind=metric.kind,
        role=metric.role,
        direction=metric.direction,
        method=known[0][0].method if known else None,
        guarantee=known[0][1] if known else None,
        decided_on="relative difference" if metric.margin and metric.margin.relative else "difference",
        variants=tuple(variants),
    )


def _without_interval(shown: VariantReadout, unanswered: Unanswered) -> VariantReadout:
    """Add what is known without an interval: the means, and the difference of constants."""
    control, estimate = unanswered.means or (None, None)
    effect = relative = None
    if unanswered.constant and control is not None and estimate is not None:
        effect = estimate - control if abs(estimate - control) > _ROUNDING * abs(control) else 0.0
        relative = effect / abs(control) if control else None
    return msgspec.structs.replace(
        shown,
        estimate=estimate,
        control_estimate=control,
        effect=effect,
        relative_effect=relative,
        verdict="not_enough_data",
        reason=unanswered.reason,
    )


def _with_comparison(
    shown: VariantReadout,
    metric: Metric,
    comparison: Comparison | Answer,
    *,
    plan: AnalysisPlan,
    observed: Observed,
    level: float,
) -> VariantReadout:
    """Add effect and segments, or the reason why there is no interval at this level yet."""
    try:
        filled = (
            with_answer(shown, metric, comparison, level)
            if isinstance(comparison, Answer)
            else _with_effect(shown, metric, comparison, level)
        )
        if not observed.adaptive and (why := closed(plan, observed.units())):
            reason = "; ".join(filter(None, (filled.reason, why)))
            filled = msgspec.structs.replace(filled, verdict="not_enough_data", reason=reason)
    except UNANSWERED as error:
        return _without_interval(shown, _unanswered(metric, observed, shown.variant, _reason(error)))
    return _with_segments(filled, metric, plan, observed, level)


def _with_effect(
    shown: VariantReadout, metric: Metric, comparison: Comparison, level: float
) -> VariantReadout:
    evidence, each = comparison.evidence, metric.role == "guardrail"
    interval = evidence.interval(level, each=each)
    relative = _relative_interval(evidence, level, each=each)
    by_share = metric.margin is not None and metric.margin.relative
    decided = verdict(metric, relative if by_share and relative is not None else interval, relative)
    control, estimate = evidence.means
    return msgspec.structs.replace(
        shown,
        estimate=estimate,
        control_estimate=control,
        effect=estimate - control,
        interval=bounds_of(interval.lower, interval.upper),
        relative_effect=None if relative is None or not control else (estimate - control) / abs(control),
        relative_interval=None if relative is None else bounds_of(relative.lower, relative.upper),
        level=level,
        e_value=None if evidence.e_value is None else min(evidence.e_value.value, 1e300),
        p_value=evidence.p_value,
        verdict=decided,
        reason=_open_reason(decided, no_share=by_share and relative is None),
        variance_reduction=comparison.variance_reduction,
        unbiased_effect=_unbiased_effect(evidence, level),
    )


def _unbiased_effect(evidence: Evidence, level: float) -> float | None:
    """Return the median-unbiased effect of a plan that has ended; None if it went on."""
    if isinstance(evidence, GroupSequentialEvidence):
        with suppress(*UNANSWERED):
            return evidence.unbiased_effect(level)
    return None


def _relative_interval(evidence: Evidence, level: float, *, each: bool) -> Interval | None:
    try:
        interval = evidence.relative_interval(level, each=each)
    except UNANSWERED:
        return None
    if interval is None or math.isnan(interval.lower) or math.isnan(interval.upper):
        return None
    return interval


def _open_reason(decided: ReadoutVerdict, *, no_share: bool) -> str:
    """Return why nothing is decided, or that a relative margin was judged on the difference."""
    if no_share:
        judged = "" if decided == "not_enough_data" else "; judged on the difference alone"
        return f"the control may be 0, so a relative margin cannot be judged{judged}"
    return UNDECIDED if decided == "not_enough_data" else ""


def _with_segments(
    shown: VariantReadout, metric: Metric, plan: AnalysisPlan, observed: Observed, level: float
) -> VariantReadout:
    segments = observed.segments
    if not segments:
        return shown
    effects: dict[str, tuple[float, Bounds | None]] = {}
    estimates: dict[str, Estimate] = {}
    for segment in segments:
        with suppress(*UNANSWERED):
            evidence = compare(metric, plan, observed, shown.variant, segment=segment).evidence
            interval = evidence.interval(level / len(segments))
            control, treatment = evidence.means
            effects[segment] = (treatment - control, bounds_of(interval.lower, interval.upper))
            if (null_effect := evidence.null_effect) is not None:
                estimates[segment] = null_effect
        if is_shared(metric, plan, observed):
            effects.pop(segment, None)
            with suppress(*UNANSWERED):
                answered = ask(metric, observed.of_segment(segment), shown.variant, level / len(segments))
                effects[segment] = (answered.means[1] - answered.means[0], difference_interval(answered))
    pooled: dict[str, Estimate] = {}
    interaction = None
    if len(estimates) >= 2:
        with suppress(*UNANSWERED):
            pooling = partial_pooling(list(estimates.values()))
            pooled = dict(zip(estimates, pooling.segments, strict=True))
            interaction = pooling.interaction.p_value
    rows = tuple(
        SegmentEffect(
            segment=segment,
            effect=effects[segment][0] if segment in effects else None,
            interval=effects[segment][1] if segment in effects else None,
            pooled_effect=pooled[segment].value if segment in pooled else None,
            pooled_standard_error=pooled[segment].standard_error if segment in pooled else None,
        )
        for segment in segments
    )
    return msgspec.structs.replace(shown, segments=rows, interaction_p_value=interaction)


def _frontier(metrics: Sequence[Metric], observed: Observed) -> Frontier | None:
    try:
        return frontier_of(metrics, observed)
    except UNANSWERED:
        return None


def _question(
    metric: Metric,
    plan: AnalysisPlan,
    observed: Observed,
    primary: Mapping[str, Found],
    leader: Leader,
) -> Question:
    """Return the comparisons that a decision needs.

    With a minimum effect these are all of them. Without one, a leader has to beat the control, or
    the control, if it leads, every other variant.
    """
    treatments = active(observed, observed.treatments)
    if plan.minimum_effect is None and leader.variant != observed.control:
        treatments = (leader.variant,)
    pairs = []
    for arm in treatments:
        if isinstance(comparison := primary[arm], Comparison):
            control, estimate = comparison.evidence.means
            distance = plan.minimum_effect or abs(estimate - control)
            decided = excludes_zero(comparison.evidence, leader.level)
            pairs.append(Pair((observed.control, arm), comparison.evidence, distance, decided))
    return Question(metric.key, pairs, leader.level, len(pairs) == len(treatments))
