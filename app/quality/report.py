"""The report of quality, from totals. Pure."""

from collections.abc import Mapping, Sequence

import msgspec

from app.experiments.model import Definition
from app.quality.model import (
    GUARANTEE,
    Bounds,
    Contrast,
    Judge,
    LabelPlan,
    QualityReport,
    Question,
    VariantQuality,
)
from stats.errors import InsufficientData
from stats.interval import Interval
from stats.label_planning import plan_labels
from stats.prediction_powered import (
    JudgedTotals,
    PredictionPoweredMean,
    prediction_powered_mean,
    quality_difference_sequence,
    quality_sequence,
)


def report(
    definition: Definition,
    totals: Mapping[int, JudgedTotals],
    judges: Sequence[Judge],
    judge: Judge | None,
    question: Question,
) -> QualityReport:
    """Return the quality of each active variant, the control first. `totals` are by position."""
    control = definition.control_index
    positions = [control, *(position for position in definition.active if position != control)]
    by_position = {position: totals.get(position, JudgedTotals.none()) for position in positions}
    estimates = {position: _estimate(total) for position, total in by_position.items()}
    alpha = (1 - question.level) / max(len(positions) - 1, 1)
    variants = []
    for position in positions:
        variant = _variant(by_position[position], estimates[position], judge, question)
        contrast = None
        if position != control:
            contrast = _contrast(
                (by_position[position], estimates[position]),
                (by_position[control], estimates[control]),
                alpha,
            )
        variants.append(
            msgspec.structs.replace(
                variant,
                variant=definition.variants[position].key,
                control=position == control,
                contrast=contrast,
            )
        )
    return QualityReport(
        experiment=definition.key,
        judge=judge,
        judges=list(judges),
        level=question.level,
        guarantee=GUARANTEE,
        variants=variants,
    )


Estimated = PredictionPoweredMean | str
"""An estimate, or the reason for which there is none."""


def _estimate(total: JudgedTotals) -> Estimated:
    try:
        return prediction_powered_mean(total)
    except InsufficientData as error:
        return str(error)


def _variant(
    total: JudgedTotals, estimate: Estimated, judge: Judge | None, question: Question
) -> VariantQuality:
    """Return the quality of a variant that is not named yet."""
    row = VariantQuality(
        variant="",
        control=False,
        judgements=total.n_judged,
        labels=total.n_labelled,
        effective_labels=total.effective_labels,
        judge_mean=total.judge_mean,
    )
    if isinstance(estimate, str):
        return msgspec.structs.replace(row, reason=estimate)
    alpha = 1 - question.level
    interval, reason = None, ""
    try:
        interval = _within(quality_sequence(estimate, alpha=alpha), 0.0)
    except InsufficientData as error:
        reason = str(error)
    return msgspec.structs.replace(
        row,
        quality=min(max(estimate.mean.value, 0.0), 1.0),
        interval=interval,
        interval_one_look=_within(estimate.mean.interval(alpha=alpha), 0.0),
        labels_alone=estimate.labels_alone.value,
        labels_alone_one_look=_within(estimate.labels_alone.interval(alpha=alpha), 0.0),
        removed_bias=estimate.removed_bias,
        trust=estimate.trust,
        label_gain=estimate.label_gain,
        reason=reason or _why_no_help(total, estimate),
        plan=None if interval is None else _plan(total, judge, question),
    )


def _why_no_help(total: JudgedTotals, estimate: PredictionPoweredMean) -> str:
    """Return why the number is that of the labels alone; empty if the judge helps."""
    if estimate.trust > 0:
        return ""
    if not total.n_judged:
        return "no judge has scored a response of this variant: the number is that of the labels alone"
    if total.effective_pairs < 3:
        return "fewer than 3 labelled responses have a score: the number is that of the labels alone"
    return "the judge's scores do not help to predict the labels: the number is that of the labels alone"


def _contrast(
    treatment: tuple[JudgedTotals, Estimated], control: tuple[JudgedTotals, Estimated], alpha: float
) -> Contrast:
    means = [total.judge_mean for total, _ in (treatment, control)]
    naive = None if means[0] is None or means[1] is None else means[0] - means[1]
    estimates = []
    for (_, estimate), name in ((treatment, "this variant"), (control, "the control")):
        if isinstance(estimate, str):
            return Contrast(naive=naive, reason=f"{name} {estimate}")
        estimates.append(estimate)
    effect = estimates[0].mean - estimates[1].mean
    interval, reason = None, ""
    try:
        interval = _within(quality_difference_sequence(*estimates, alpha=alpha), -1.0)
    except InsufficientData as error:
        reason = str(error)
    return Contrast(
        effect=effect.value,
        interval=interval,
        interval_one_look=_within(effect.interval(alpha=alpha), -1.0),
        naive=naive,
        removed_bias=None if naive is None else naive - effect.value,
        reason=reason,
    )


def _plan(total: JudgedTotals, judge: Judge | None, question: Question) -> LabelPlan:
    plan = plan_labels(
        {"this variant": total},
        alpha=1 - question.level,
        labels=question.labels,
        label_cost=question.label_cost_usd,
        judgement_cost=judge.cost_usd if judge else None,
    )
    option = plan.options[0]
    text = (
        f"{option.labels:,} more labels shrink the interval from ±{100 * plan.half_width:.1f} to "
        f"±{100 * option.half_width:.1f} points{_price(option.cost)}; "
    )
    if option.judge_calls is None:
        text += "no number of judge calls would do as much"
    else:
        calls = f"{option.judge_calls:,} more judge calls"
        text += f"{calls} would do as much{_price(option.judge_cost)}"
    return LabelPlan(
        half_width=plan.half_width,
        labels=option.labels,
        half_width_then=option.half_width,
        cost_usd=option.cost,
        judge_calls=option.judge_calls,
        judge_cost_usd=option.judge_cost,
        text=text,
    )


def _price(cost: float | None) -> str:
    return "" if cost is None else f" (${cost:,.2f})"


def _within(interval: Interval, least: float) -> Bounds:
    """Cut an interval to the possible values, from `least` to 1."""
    return min(max(interval.lower, least), 1.0), max(min(interval.upper, 1.0), least)
