"""Units and time per stage before a rollout, and the size of the control. Pure.

The planner asks the rule that decides later. It generates the totals of a canary that is like the
control but has bad luck, with the small probability `STUCK`, and finds the fewest units at which it
is safe.
"""

import math
from typing import Final, assert_never

import msgspec
import numpy as np
from scipy import special

from app.analysis.harm.answer import answer
from app.analysis.harm.constants import SPREAD_MARGINS
from app.analysis.harm.question import Baseline, Question
from app.analysis.observed import Cell, Observed
from app.experiments.metrics import Mean, Metric, Proportion, QuantileOf, Ratio
from app.ledger.units.metric_totals import MetricTotals, moments_of
from app.rollouts.model import DAY_S, Guardrail, RolloutPlan
from stats.errors import InsufficientData
from stats.quantiles import QuantileSketch
from stats.tails import binomial_quantile
from stats.totals import MeanTotals, ProportionTotals

CONTROL_RATIO: Final = 9.0
"""A control nine times as large as a canary gives 90 % of the precision of an infinite one."""
STUCK: Final = 0.03
"""Share of canaries like the control that may still wait for an answer after the planned units.

With false harm and false alarms of the sample ratio, 1 % each, 95 % reach the end.
"""

_UNITS_MIN: Final = 100
_UNITS_MAX: Final = 10**10
_SKETCH_ACCURACY: Final = 0.01
_SKETCH_POINTS: Final = 4_000
_CONTROL, _CANARY = "control", "canary"


class StageNeed(msgspec.Struct, frozen=True, kw_only=True):
    """The needs of one measured stage.

    It needs `canary_units` of each canary, so `units` of all traffic. They take `days` at the given
    traffic, and at least the minimum duration of the stage. All three are None if no number of
    units is enough. `slowest` is the guardrail that takes longest.
    """

    share: float
    control_share: float
    canary_units: int | None
    units: int | None
    days: float | None
    slowest: str


def stages(plan: RolloutPlan, *, units_per_day: float | None = None) -> tuple[StageNeed, ...]:
    """Return what every measured stage needs, so that 95 % of canaries like the control reach the end.

    The default baseline is a coefficient of variation of 1, or a bad outcome in 5 % of the units. A
    superiority test of the primary metric is not planned for, because its effect is unknown.
    """
    return tuple(_stage(plan, index, units_per_day) for index in range(len(plan.measured_stages)))


def _stage(plan: RolloutPlan, index: int, units_per_day: float | None) -> StageNeed:
    stage = plan.measured_stages[index]
    needed = {guardrail.metric.key: units_to_safe(plan, index, guardrail) for guardrail in plan.guardrails}
    primary = plan.primary
    if primary is not None and primary.test == "non_inferior" and index == len(plan.measured_stages) - 1:
        # As if all of its data had to come from the last stage; nearly all of them do.
        metric = msgspec.structs.replace(primary.metric, role="guardrail")
        guardrail = Guardrail(metric=metric, baseline=primary.baseline)
        needed[metric.key] = units_to_safe(plan, index, guardrail)
    slowest = max(needed, key=lambda key: math.inf if needed[key] is None else needed[key] or 0)
    canary_units = needed[slowest]
    units = None if canary_units is None else math.ceil(canary_units / _canary_share(plan, index))
    days = None
    if units is not None and units_per_day is not None:
        days = max(units / units_per_day, stage.duration_s / DAY_S)
    return StageNeed(
        share=stage.share,
        control_share=control_share(plan, index),
        canary_units=canary_units,
        units=units,
        days=days,
        slowest=slowest,
    )


def _canary_share(plan: RolloutPlan, index: int) -> float:
    return plan.measured_stages[index].share / len(plan.canaries)


def control_share(plan: RolloutPlan, index: int) -> float:
    """Return the least share that the control must keep during a measured stage, under any policy.

    Worked by hand: for one canary at 1 % it is 9 %; at 25 % it is the remaining 75 %.
    """
    stage = plan.measured_stages[index]
    return min(CONTROL_RATIO * _canary_share(plan, index), 1 - stage.share)


def units_to_safe(plan: RolloutPlan, index: int, guardrail: Guardrail) -> int | None:
    """Return the fewest units, to 1 %, that prove a canary like the control safe in a measured stage.

    None if 10^10 units do not.
    """
    ratio = control_share(plan, index) / _canary_share(plan, index)
    members = len(plan.measured_stages) * len(plan.guardrails) * len(plan.canaries)
    question = Question(
        metric=guardrail.metric,
        margin=guardrail.margin,
        baseline=guardrail.baseline,
        test=guardrail.test,
        treatment=_CANARY,
        epochs=(0,),
        pooled=(0,),
        worse_level=plan.alpha / members,
        within_level=plan.beta,
    )
    z = -float(special.ndtri(STUCK / members))
    least, most = float(_UNITS_MIN), float(_UNITS_MIN)
    while not _is_safe(question, round(most), ratio, z):
        least, most = most, 2 * most
        if most > _UNITS_MAX:
            return None
    while most > 1.01 * least:
        middle = math.sqrt(least * most)
        least, most = (least, middle) if _is_safe(question, round(middle), ratio, z) else (middle, most)
    return math.ceil(most)


def _is_safe(question: Question, units: int, ratio: float, z: float) -> bool:
    control = max(round(units * ratio), 1)
    observed = Observed(
        variants=(_CONTROL, _CANARY),
        control=_CONTROL,
        cells=[
            _cell(question, _CONTROL, control, 0.0),
            _cell(question, _CANARY, units, z * math.sqrt(1 + units / control)),
        ],
    )
    try:
        return answer(question, observed).within.proven
    except InsufficientData:
        return False


def _cell(question: Question, variant: str, n: int, z: float) -> Cell:
    """Return the totals that the baseline gives, off by `z` standard errors in the worse direction."""
    return Cell(
        0,
        variant,
        n,
        {question.metric.key: _generated(question.metric, question.baseline, n, z * question.sign)},
    )


def _generated(metric: Metric, baseline: Baseline | None, n: int, z: float) -> MetricTotals:
    match metric.measure:
        case Proportion():
            rate = min(max(baseline.mean, 0.0), 1.0) if baseline is not None else 0.05
            return ProportionTotals(n, binomial_quantile(float(special.ndtr(z)), n, rate))
        case Mean() | Ratio():
            known = baseline or _guess(metric)
            return MeanTotals(n, known.mean + z * known.sd / math.sqrt(n), (n - 1) * known.sd**2)
        case QuantileOf(q=q):
            return _lognormal(baseline or Baseline(1.0, 1.0), n, q, z)
        case _:
            assert_never(metric.measure)


def _guess(metric: Metric) -> Baseline:
    """Return the spread of a unit that `analysis.harm` assumes if nothing is known."""
    assert metric.margin is not None
    return (
        Baseline(1.0, 1.0) if metric.margin.relative else Baseline(0.0, SPREAD_MARGINS * metric.margin.size)
    )


def _lognormal(baseline: Baseline, n: int, q: float, z: float) -> QuantileSketch:
    """Return an ideal sample of lognormal values, whose quantile is off by `z` standard errors."""
    sigma = math.sqrt(math.log1p((baseline.sd / max(baseline.mean, 1e-9)) ** 2))
    at = float(special.ndtri(q))
    density = math.exp(-(at**2) / 2) / math.sqrt(2 * math.pi) / sigma
    off = z * math.sqrt(q * (1 - q) / n) / density
    points = min(n, _SKETCH_POINTS)
    ranks = (np.arange(points) + 0.5) / points
    values = baseline.mean * np.exp(sigma * special.ndtri(ranks) - sigma**2 / 2 + off)
    sketch = QuantileSketch.from_observations(values, accuracy=_SKETCH_ACCURACY)
    counts = [(bucket, round(count * n / points)) for bucket, count in sketch.buckets]
    return QuantileSketch.from_counts(counts, accuracy=_SKETCH_ACCURACY)


# Baselines


def with_baselines(plan: RolloutPlan, observed: Observed) -> RolloutPlan:
    """Return the plan with baselines from the control's totals where it has none.

    The data are those *before* the rollout: a baseline from its own data would move between looks.
    """

    def measured(metric: Metric) -> Baseline | None:
        return baseline(metric, observed.totals(metric.key, observed.control))

    guardrails = tuple(
        msgspec.structs.replace(guardrail, baseline=guardrail.baseline or measured(guardrail.metric))
        for guardrail in plan.guardrails
    )
    primary = plan.primary
    if primary is not None:
        primary = msgspec.structs.replace(primary, baseline=primary.baseline or measured(primary.metric))
    return msgspec.structs.replace(plan, guardrails=guardrails, primary=primary)


def baseline(metric: Metric, totals: MetricTotals | None) -> Baseline | None:
    """Return mean and standard deviation of a unit; None below 100 units or without any spread.

    Worked by hand: 10 errors of 1,000: 0.01 and sqrt(9.9 / 999) = 0.0995.
    """
    if totals is None or totals.n < _UNITS_MIN:
        return None
    if isinstance(totals, QuantileSketch):
        return _of_sketch(totals)
    moments = moments_of(metric, totals)
    return Baseline(moments.mean, math.sqrt(moments.variance)) if moments.m2 > 0 else None


def _of_sketch(sketch: QuantileSketch) -> Baseline | None:
    values, counts, seen = [], [], 0
    for _, count in sketch.buckets:
        seen += count
        values.append(sum(sketch.order_statistic(seen)) / 2)
        counts.append(count)
    mean = float(np.average(values, weights=counts))
    sd = math.sqrt(float(np.average((np.array(values) - mean) ** 2, weights=counts)))
    return Baseline(mean, sd) if sd > 0 else None
