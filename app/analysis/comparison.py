"""From totals to evidence: which method answers for which metric, plan and allocation. Pure.

| allocation | metric | always valid | fixed horizon | group sequential |
|---|---|---|---|---|
| fixed within epochs | guardrail of rare events, relative margin | exact, conditional | as a proportion | |
| | proportion | sequence | score test; Welch over several epochs | repeated intervals |
| | mean, ratio | sequence | Welch | repeated intervals |
| | quantile | exact sequences | order statistics | refused |
| reacts to outcomes | within bounds | exact sequences, whatever the plan | | |
| | quantile | exact sequences, whatever the plan | | |
| | other, propensities logged | AIPW sequence, whatever the plan | | |
| | other | refused | | |
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, assert_never

import msgspec
import numpy as np

from app.analysis.evidence import (
    AdaptiveEvidence,
    BoundedEvidence,
    EventEvidence,
    Evidence,
    QuantileEvidence,
    SequenceEvidence,
    Tuning,
)
from app.analysis.observed import Observed
from app.analysis.planned_evidence import FixedEvidence, GroupSequentialEvidence, ScoreEvidence
from app.experiments.metrics import Metric, QuantileOf, Ratio
from app.experiments.plan import AlwaysValid, AnalysisPlan, FixedHorizon, GroupSequential
from app.feedback.metric_totals import MetricTotals, moments_of
from stats import checks
from stats.eprocess import EValue
from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.quantiles import QuantileSketch
from stats.sequences import Contrast, effective_units
from stats.sequential_counts import EventCounts
from stats.stratification import Stratum, stratified_difference
from stats.totals import JointTotals, MeanTotals, ProportionTotals
from stats.variance_reduction import regression_coefficients

EVENT_RATE_MAX: Final = 0.1
"""Above it the conditional test wastes more than a tenth of what is known: it is a mean like any other."""
_LOOK_TOLERANCE: Final = 0.02
"""A look up to 2 % of the information before its time counts as that look."""


class Adjustment(msgspec.Struct, frozen=True):
    """What covariates explain: coefficients common to all variants and epochs, and the covariates' mean."""

    coefficients: tuple[float, ...]
    centre: tuple[float, ...]
    caution: float

    def of(self, totals: JointTotals) -> MeanTotals:
        """The totals of (outcome - what the covariates explain), on the scale of the outcome.

        The spread is raised by `caution`, because the coefficients were fitted to the same units.
        """
        residual = totals.combine((1.0, *(-slope for slope in self.coefficients)))
        shift = math.fsum(slope * x for slope, x in zip(self.coefficients, self.centre, strict=True))
        return (
            MeanTotals(residual.n, residual.mean + shift, residual.m2 * self.caution)
            if residual.n
            else residual
        )


class Comparison(msgspec.Struct, frozen=True):
    """Evidence on one metric and treatment, and the share of variance that covariates took away."""

    evidence: Evidence
    variance_reduction: float | None


def tuning(plan: AnalysisPlan, observed: Observed) -> Tuning:
    """Sequences are tightest when the expected units have come in equal parts, in effective units."""
    return Tuning(max(plan.expected_units / (2 * len(observed.variants)), 1.0), plan.alpha)


def compare(
    metric: Metric,
    plan: AnalysisPlan,
    observed: Observed,
    treatment: str,
    *,
    segment: str | None = None,
    control: str | None = None,
) -> Comparison:
    """Evidence about the treatment against the control, or another variant; in all units or a segment.

    Raises InsufficientData with the reason, if the data do not suffice for any method that is valid for them.
    """
    base = control or observed.control
    if isinstance(metric.measure, QuantileOf):
        q, arms = metric.measure.q, (base, treatment)
        return Comparison(_quantiles(metric, plan, observed, arms, q=q, segment=segment), None)
    if observed.adaptive:
        return Comparison(_adaptive(metric, plan, observed, (base, treatment), segment), None)
    key = "adjustment", metric, segment
    if key not in observed.memo:
        observed.memo[key] = _adjustment(metric, observed, segment)
    adjustment: Adjustment | None = observed.memo[key]
    strata, moments = [], []
    for epoch in observed.epochs:
        c, t = (observed.totals(metric.key, arm, epoch=epoch, segment=segment) for arm in (base, treatment))
        if c is None or t is None or not min(c.n, t.n):
            continue
        # An epoch too small for a ratio says nothing; others may.
        with suppress(InsufficientData):
            moments.append((_adjusted(metric, c, adjustment), _adjusted(metric, t, adjustment)))
            strata.append((c, t))
    if not strata:
        raise InsufficientData("no epoch has enough units with a value in both variants")
    events = _events(metric, plan, observed, strata)
    if events is not None:
        return Comparison(events, None)
    evidence = _evidence(plan, observed, strata, moments)
    if adjustment is None:
        return Comparison(evidence, None)
    plain = math.fsum(moments_of(metric, arm).m2 for pair in strata for arm in pair)
    left = math.fsum(arm.m2 for pair in moments for arm in pair)
    return Comparison(evidence, 1 - left / plain if plain else None)


def _adjustment(metric: Metric, observed: Observed, segment: str | None) -> Adjustment | None:
    """From all variants and epochs; None if the totals hold no covariates."""
    if isinstance(metric.measure, Ratio):
        return None
    cells = [
        totals
        for epoch in observed.epochs
        for variant in observed.variants
        if isinstance(
            totals := observed.totals(metric.key, variant, epoch=epoch, segment=segment), JointTotals
        )
    ]
    if not cells or cells[0].dimension < 2:
        return None
    together = sum(cells[1:], cells[0])
    within = np.sum([cell.matrix for cell in cells], axis=0)
    covariates = together.dimension - 1
    freedom = sum(max(cell.n - 1, 0) for cell in cells)
    checks.n_at_least(freedom - covariates, 1, "units beyond those that the covariates take")
    slopes = tuple(regression_coefficients(within).tolist())
    return Adjustment(slopes, together.mean[1:], freedom / (freedom - covariates))


def _adjusted(metric: Metric, totals: MetricTotals, adjustment: Adjustment | None) -> MeanTotals:
    if adjustment is None or not isinstance(totals, JointTotals):
        return moments_of(metric, totals)
    return adjustment.of(totals)


def _evidence(
    plan: AnalysisPlan,
    observed: Observed,
    strata: Sequence[tuple[MetricTotals, MetricTotals]],
    moments: Sequence[tuple[MeanTotals, MeanTotals]],
) -> Evidence:
    tuned = tuning(plan, observed)
    match plan.estimator:
        case AlwaysValid():
            return SequenceEvidence(Contrast.of(*moments), tuned)
        case FixedHorizon():
            control, treatment = strata[0]
            if (
                len(strata) == 1
                and isinstance(control, ProportionTotals)
                and isinstance(treatment, ProportionTotals)
            ):
                return ScoreEvidence(control, treatment, _always_valid(moments, tuned))
            return _welch(moments, tuned)
        case GroupSequential(looks=looks, spending=spending):
            fractions = _fractions(looks, observed.units() / plan.expected_units)
            fixed = _welch(moments, tuned)
            return GroupSequentialEvidence(
                fixed.effect, fixed.arms, fixed.levels, fractions, len(looks), spending, fixed.e_value
            )
        case _:
            assert_never(plan.estimator)


def _events(
    metric: Metric,
    plan: AnalysisPlan,
    observed: Observed,
    strata: Sequence[tuple[MetricTotals, MetricTotals]],
) -> EventEvidence | None:
    """Of a guardrail that counts what should not happen, with a relative margin, while that is rare.

    Sequences of means need hundreds of events to be right; these are right from the first one on.
    """
    margin = metric.margin
    if metric.role != "guardrail" or metric.direction != "lower" or margin is None or not margin.relative:
        return None
    counts = [
        (c, t) for c, t in strata if isinstance(c, ProportionTotals) and isinstance(t, ProportionTotals)
    ]
    if len(counts) < len(strata) or not isinstance(plan.estimator, AlwaysValid):
        return None
    events = sum(c.successes + t.successes for c, t in counts)
    if events > EVENT_RATE_MAX * sum(c.n + t.n for c, t in counts):
        return None
    periods = tuple(EventCounts(c.successes, t.successes, t.n / (c.n + t.n)) for c, t in counts)
    weights = [effective_units(c.n, t.n) for c, t in counts]
    control, treatment = (
        math.fsum(w * pair[arm].mean for w, pair in zip(weights, counts, strict=True)) / math.fsum(weights)
        for arm in (0, 1)
    )
    arms = [sum((pair[arm].moments for pair in counts[1:]), counts[0][arm].moments) for arm in (0, 1)]
    per_arm = Tuning(plan.expected_units / len(observed.variants), plan.alpha / 2)
    bounded = BoundedEvidence(arms[0], arms[1], 0.0, 1.0, per_arm)
    return EventEvidence(periods, bounded, (control, treatment), 1 + margin.size)


def _always_valid(moments: Sequence[tuple[MeanTotals, MeanTotals]], tuned: Tuning) -> EValue | None:
    """Beside a fixed test: what remains true for somebody who looked before."""
    try:
        return SequenceEvidence(Contrast.of(*moments), tuned).e_value
    except InsufficientData:
        return None


def _welch(moments: Sequence[tuple[MeanTotals, MeanTotals]], tuned: Tuning) -> FixedEvidence:
    found = stratified_difference(
        [Stratum(treatment, control) for control, treatment in moments], weighting="mantel-haenszel"
    )
    levels, arms = [], []
    for arm in (0, 1):
        value, parts = 0.0, []
        for pair, weight in zip(moments, found.weights, strict=True):
            if weight:
                value += weight * pair[arm].mean
                parts.append((weight**2 * pair[arm].variance / pair[arm].n, pair[arm].n - 1.0))
        levels.append(value)
        if any(variance > 0 for variance, _ in parts):
            arms.append(Estimate.of_independent(value, parts))
    both = (arms[0], arms[1]) if len(arms) == 2 else None
    return FixedEvidence(found.effect, both, (levels[0], levels[1]), _always_valid(moments, tuned))


def _fractions(looks: tuple[float, ...], now: float) -> tuple[float, ...]:
    """Information fractions of the planned looks up to this one. Raises InsufficientData before the first."""
    passed = [look for look in looks if look <= now + _LOOK_TOLERANCE]
    if not passed:
        raise InsufficientData(
            f"the first look is planned at {looks[0]:.0%} of the units, now it is {now:.0%}"
        )
    last = max(now, passed[-1] - _LOOK_TOLERANCE)
    # Looks closer to each other than the tolerance may have come at once, and are one.
    return (*(look for look in passed[:-1] if look < last - _LOOK_TOLERANCE / 10), last)


def _quantiles(
    metric: Metric,
    plan: AnalysisPlan,
    observed: Observed,
    arms: tuple[str, str],
    *,
    q: float,
    segment: str | None,
) -> QuantileEvidence:
    if isinstance(plan.estimator, GroupSequential):
        raise InsufficientData("quantiles have no group sequential test: use always_valid or fixed_horizon")
    if len(observed.epochs) > 1 and not observed.adaptive:
        raise InsufficientData("quantiles are not stratified by epoch: they need one with a constant split")
    sketches = [observed.totals(metric.key, arm, segment=segment) for arm in arms]
    control, treatment = sketches
    if not (isinstance(control, QuantileSketch) and isinstance(treatment, QuantileSketch)):
        raise InsufficientData("a variant has no value")
    fixed = isinstance(plan.estimator, FixedHorizon) and not observed.adaptive
    per_arm = Tuning(plan.expected_units / len(observed.variants), plan.alpha / 4)
    return QuantileEvidence(control, treatment, q, None if fixed else per_arm)


def _adaptive(
    metric: Metric, plan: AnalysisPlan, observed: Observed, arms: tuple[str, str], segment: str | None
) -> Evidence:
    periods = observed.periods.get(metric.key, {})
    if metric.bounds is not None:
        lower, upper = metric.bounds
        scaled = []
        for arm in arms:
            totals = observed.totals(metric.key, arm, segment=segment)
            if totals is None or not totals.n:
                raise InsufficientData(f"no unit of {arm} has a value")
            plain = moments_of(metric, totals)
            width = upper - lower
            mean = min(max((plain.mean - lower) / width, 0.0), 1.0)
            scaled.append(MeanTotals(plain.n, mean, plain.m2 / width**2))
        per_arm = Tuning(plan.expected_units / len(observed.variants), plan.alpha / 2)
        return BoundedEvidence(scaled[0], scaled[1], lower, upper - lower, per_arm)
    if segment is None and all(arm in periods for arm in arms):
        evidence = AdaptiveEvidence(
            periods[arms[0]], periods[arms[1]], Tuning(plan.expected_units, plan.alpha)
        )
        evidence.interval(plan.alpha)  # raises InsufficientData before its burn-in
        return evidence
    raise InsufficientData(
        "allocation reacted to outcomes: without bounds (a cap) or logged propensities "
        "nothing valid can be said"
    )
