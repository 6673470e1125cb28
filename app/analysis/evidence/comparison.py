"""Evidence from totals: the method for each metric, plan and allocation. Pure.

| allocation | metric | always valid | fixed horizon | group sequential |
|---|---|---|---|---|
| fixed within epochs | guardrail | as in a rollout: `harm.answer` | as any other metric | |
| | proportion of few events | exact, conditional on the events | the same | the same |
| | proportion, all units of a variant alike | exact sequences | as a proportion | |
| | proportion | sequence | score test; Welch over several epochs | repeated intervals |
| | mean, ratio | sequence | Welch | repeated intervals |
| | quantile | exact sequences | order statistics | refused |
| reacts to outcomes | proportion, reward, few events | exact sequence within strata, whatever the plan | | |
| | proportion, mean, ratio | sequence within strata of shares, whatever the plan | | |
| | quantile, segments | refused | | |
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import assert_never

import msgspec

from app.analysis.balance import adjustable
from app.analysis.evidence.effect import (
    BoundedEvidence,
    ConcurrentEventEvidence,
    ConcurrentEvidence,
    Evidence,
    QuantileEvidence,
    SequenceEvidence,
    Tuning,
)
from app.analysis.evidence.planned import (
    FixedEvidence,
    GroupSequentialEvidence,
    ScoreEvidence,
    look_fractions,
)
from app.analysis.evidence.rare import rare_evidence
from app.analysis.observed import Observed
from app.analysis.strata import comparable_means, counts_of, pairs_of
from app.experiments.metrics import REWARD, Metric, Proportion, QuantileOf, Ratio
from app.experiments.plan import AlwaysValid, AnalysisPlan, FixedHorizon, GroupSequential
from app.ledger.units.metric_totals import MetricTotals, moments_of
from stats import checks, concurrent
from stats.concurrent import ConcurrentArms, drawn_alike
from stats.eprocess import EValue
from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.heterogeneity import UNITS_MIN as SEGMENT_UNITS_MIN
from stats.quantiles import QuantileSketch, quantile
from stats.ratios import with_covariates
from stats.sequences import ARM_UNITS_MIN, Contrast
from stats.stratification import Stratum, stratified_difference
from stats.totals import JointTotals, MeanTotals, ProportionTotals
from stats.variance_reduction import CovariateAdjustment


class Comparison(msgspec.Struct, frozen=True):
    """Evidence on one metric and treatment, and the share of variance that covariates remove."""

    evidence: Evidence
    variance_reduction: float | None


def tuning(plan: AnalysisPlan, observed: Observed) -> Tuning:
    """Return the tuning for the expected units in equal parts, in effective units."""
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
    """Return the evidence about the treatment against the control, or against another variant.

    Raises InsufficientData with the reason if no method that is valid for the data has enough of
    them.
    """
    base = control or observed.control
    if isinstance(metric.measure, QuantileOf):
        q, arms = metric.measure.q, (base, treatment)
        return Comparison(_quantiles(metric, plan, observed, arms, q=q, segment=segment), None)
    if observed.adaptive:
        arms = base, treatment
        known = "concurrent", metric, plan.expected_units, plan.alpha, arms, segment
        if known not in observed.memo:
            observed.memo[known] = Comparison(_adaptive(metric, plan, observed, arms, segment), None)
        compared: Comparison = observed.memo[known]
        return compared
    key = "adjustment", metric, segment, adjustable(plan, observed)
    if key not in observed.memo:
        observed.memo[key] = _adjustment(metric, observed, segment) if key[-1] else None
    adjustment: CovariateAdjustment | None = observed.memo[key]
    strata, moments = _strata(metric, observed, (base, treatment), segment, adjustment)
    if isinstance(metric.measure, Proportion):
        counts = [(counts_of(c), counts_of(t)) for c, t in strata]
        if (rare := rare_evidence(counts)) is not None:
            return Comparison(rare, None)
    if segment is not None:
        units = (sum(pair[arm].n for pair in moments) for arm in (0, 1))
        checks.n_at_least(min(units), SEGMENT_UNITS_MIN, "units per variant in a segment")
    if adjustment is None:
        # A proportion's moments from its counts lose nothing.
        moments = [(moments_of(metric, c), moments_of(metric, t)) for c, t in strata]
        return Comparison(_evidence(plan, observed, strata, moments), None)
    evidence = _adjusted_evidence(plan, observed, moments)
    plain = math.fsum(moments_of(metric, arm).m2 for pair in strata for arm in pair)
    left = math.fsum(arm.m2 for pair in moments for arm in pair)
    return Comparison(evidence, 1 - left / plain if plain else None)


def known_means(
    metric: Metric, observed: Observed, treatment: str, *, control: str | None = None
) -> tuple[tuple[float, float], bool] | None:
    """Return comparable means of (control, treatment), and whether any unit differs from the others.

    They are known even if their error is not. None if a variant has no value, if the metric is a quantile of
    several epochs, or if allocation reacted to outcomes, which may bias the means.
    """
    arms = control or observed.control, treatment
    if observed.adaptive or (isinstance(metric.measure, QuantileOf) and len(observed.epochs) > 1):
        return None
    if isinstance(metric.measure, QuantileOf):
        sketches = [observed.totals(metric.key, arm) for arm in arms]
        known = [sketch for sketch in sketches if isinstance(sketch, QuantileSketch) and sketch.n]
        if len(known) < 2:
            return None
        spread = any(len(sketch.buckets) > 1 for sketch in known)
        return (quantile(known[0], metric.measure.q), quantile(known[1], metric.measure.q)), spread
    try:
        _, moments = _strata(metric, observed, arms, None, None)
    except InsufficientData:
        return None
    return comparable_means(moments), any(arm.m2 for pair in moments for arm in pair)


def _strata(
    metric: Metric,
    observed: Observed,
    arms: tuple[str, str],
    segment: str | None,
    adjustment: CovariateAdjustment | None,
) -> tuple[list[tuple[MetricTotals, MetricTotals]], list[tuple[MeanTotals, MeanTotals]]]:
    """Return the totals of both variants in each epoch with values of both, and their adjusted moments.

    Raises InsufficientData if no epoch has values of both.
    """
    strata, moments, reasons = [], [], []
    for c, t in pairs_of(observed, metric.key, arms, segment=segment):
        # One epoch may be too small for a ratio; others may not be.
        try:
            moments.append((_adjusted(metric, c, adjustment), _adjusted(metric, t, adjustment)))
            strata.append((_plain(metric, c), _plain(metric, t)))
        except InsufficientData as lacking:
            reasons.append(str(lacking))
    if not strata and reasons:
        raise InsufficientData(reasons[0])
    if not strata:
        empty = [
            arm
            for arm in arms
            if not (totals := observed.totals(metric.key, arm, segment=segment)) or not totals.n
        ]
        which = (
            f"no unit of {' or '.join(empty)} has a value"
            if empty
            else "no epoch has values in both variants"
        )
        raise InsufficientData(which)
    return strata, moments


def _adjustment(metric: Metric, observed: Observed, segment: str | None) -> CovariateAdjustment | None:
    """Fit the adjustment to all variants and epochs; None without covariates that vary."""
    joints = {
        (variant, epoch): joint
        for epoch in observed.epochs
        for variant in observed.variants
        if (joint := _joint(metric, observed.totals(metric.key, variant, epoch=epoch, segment=segment)))
        is not None
    }
    if not joints or not observed.covariates:
        return None
    return CovariateAdjustment.fit(list(joints.values()))


def _joint(metric: Metric, totals: MetricTotals | None) -> JointTotals | None:
    """Return totals of (outcome, covariates ...); None without covariates or without an outcome."""
    if not isinstance(totals, JointTotals) or not totals.n:
        return None
    if not isinstance(metric.measure, Ratio):
        return totals if totals.dimension > 1 else None
    with suppress(InsufficientData):
        return with_covariates(totals) if totals.dimension > 2 else None
    return None


def _adjusted(metric: Metric, totals: MetricTotals, adjustment: CovariateAdjustment | None) -> MeanTotals:
    if adjustment is not None and (joint := _joint(metric, totals)) is not None:
        return adjustment.apply(joint)
    return moments_of(metric, totals)


def _plain(metric: Metric, totals: MetricTotals) -> MetricTotals:
    """Return the same without covariates, as an experiment that has none holds them."""
    if not isinstance(totals, JointTotals) or isinstance(metric.measure, Ratio):
        return totals
    return counts_of(totals) if isinstance(metric.measure, Proportion) else totals.value(0)


def _evidence(
    plan: AnalysisPlan,
    observed: Observed,
    strata: Sequence[tuple[MetricTotals, MetricTotals]],
    moments: Sequence[tuple[MeanTotals, MeanTotals]],
) -> Evidence:
    counts = [
        (c, t) for c, t in strata if isinstance(c, ProportionTotals) and isinstance(t, ProportionTotals)
    ]
    match plan.estimator:
        case AlwaysValid() if len(counts) == len(strata) and (exact := _alike(plan, observed, counts)):
            return exact
        case FixedHorizon() if len(counts) == len(strata) == 1:
            ((control, treatment),) = counts
            return ScoreEvidence(control, treatment, _always_valid(moments, tuning(plan, observed)))
        case _:
            return _adjusted_evidence(plan, observed, moments)


def _alike(
    plan: AnalysisPlan, observed: Observed, counts: Sequence[tuple[ProportionTotals, ProportionTotals]]
) -> BoundedEvidence | None:
    """Return exact sequences if both proportions are 0 or 1: then a sequence of means has no spread.

    None for other proportions, and below the units that a sequence of means needs.
    """
    arms = [sum((pair[arm] for pair in counts[1:]), counts[0][arm]) for arm in (0, 1)]
    if min(arm.n for arm in arms) < ARM_UNITS_MIN or any(0 < arm.successes < arm.n for arm in arms):
        return None
    per_arm = Tuning(plan.expected_units / len(observed.variants), plan.alpha / 2)
    return BoundedEvidence(arms[0].moments, arms[1].moments, 0.0, 1.0, per_arm)


def _adjusted_evidence(
    plan: AnalysisPlan, observed: Observed, moments: Sequence[tuple[MeanTotals, MeanTotals]]
) -> Evidence:
    """Return the evidence from one number per unit."""
    tuned = tuning(plan, observed)
    match plan.estimator:
        case AlwaysValid():
            return SequenceEvidence(Contrast.of(*moments), tuned)
        case FixedHorizon():
            return _welch(moments, tuned)
        case GroupSequential(looks=looks, spending=spending):
            fractions = look_fractions(looks, observed.units() / plan.expected_units)
            fixed = _welch(moments, tuned)
            return GroupSequentialEvidence(
                **msgspec.structs.asdict(fixed), fractions=fractions, looks=looks, spending=spending
            )
        case _:
            assert_never(plan.estimator)


def _always_valid(moments: Sequence[tuple[MeanTotals, MeanTotals]], tuned: Tuning) -> EValue | None:
    """Return the evidence that holds at every look, to show next to a fixed test."""
    try:
        return SequenceEvidence(Contrast.of(*moments), tuned).e_value
    except InsufficientData:
        return None


def _welch(moments: Sequence[tuple[MeanTotals, MeanTotals]], tuned: Tuning) -> FixedEvidence:
    difference = stratified_difference(
        [Stratum(treatment, control) for control, treatment in moments], weighting="mantel-haenszel"
    )
    levels, arms = [], []
    for arm in (0, 1):
        value, parts = 0.0, []
        for pair, weight in zip(moments, difference.weights, strict=True):
            if weight:
                value += weight * pair[arm].mean
                parts.append((weight**2 * pair[arm].variance / pair[arm].n, pair[arm].n - 1.0))
        levels.append(value)
        if any(variance > 0 for variance, _ in parts):
            arms.append(Estimate.of_independent(value, parts))
    both = (arms[0], arms[1]) if len(arms) == 2 else None
    null_parts = []
    for (control, treatment), weight in zip(moments, difference.weights, strict=True):
        if weight:
            freedom = control.n + treatment.n - 2
            variance = (control.m2 + treatment.m2) / freedom * (1 / control.n + 1 / treatment.n)
            null_parts.append((weight**2 * variance, freedom))
    return FixedEvidence(
        effect=difference.effect,
        null_effect=Estimate.of_independent(difference.effect.value, null_parts),
        arms=both,
        means=(levels[0], levels[1]),
        e_value=_always_valid(moments, tuned),
    )


def _quantiles(
    metric: Metric,
    plan: AnalysisPlan,
    observed: Observed,
    arms: tuple[str, str],
    *,
    q: float,
    segment: str | None,
) -> QuantileEvidence:
    if observed.adaptive:
        raise InsufficientData("quantiles are not compared where the allocation reacts to outcomes")
    if isinstance(plan.estimator, GroupSequential):
        raise InsufficientData("quantiles have no group sequential test: use always_valid or fixed_horizon")
    if len(observed.epochs) > 1:
        raise InsufficientData("quantiles are not stratified by epoch: they need one with a constant split")
    sketches = [observed.totals(metric.key, arm, segment=segment) for arm in arms]
    control, treatment = sketches
    if not (isinstance(control, QuantileSketch) and isinstance(treatment, QuantileSketch)):
        raise InsufficientData("a variant has no value")
    fixed = isinstance(plan.estimator, FixedHorizon)
    per_arm = Tuning(plan.expected_units / len(observed.variants), plan.alpha / 4)
    return QuantileEvidence(control, treatment, q, None if fixed else per_arm)


def _adaptive(
    metric: Metric, plan: AnalysisPlan, observed: Observed, arms: tuple[str, str], segment: str | None
) -> Evidence:
    """Evidence from units that were drawn at the same time. Each stratum is an experiment of its own."""
    if segment is not None:
        raise InsufficientData("segments are not compared where the allocation reacts to outcomes")
    totals = {arm: observed.totals(metric.key, arm) for arm in arms}
    empty = [arm for arm, known in totals.items() if known is None or not known.n]
    if empty:
        raise InsufficientData(f"no unit of {' or '.join(empty)} has a value")
    strata = _concurrent(metric, observed, arms)
    if not strata:
        raise InsufficientData(
            "the allocation reacts to outcomes, and no totals by its shares are kept: run `wald rebuild`"
        )
    tuned = Tuning(max(plan.expected_units / (10 * len(observed.variants)), 1.0), plan.alpha)
    rare = metric.key == REWARD or isinstance(metric.measure, Proportion)
    if rare and concurrent.few_events(strata):
        return ConcurrentEventEvidence(tuple(strata), tuned)
    return ConcurrentEvidence(concurrent.contrast(strata), tuned, concurrent.one_look(strata))


def _concurrent(metric: Metric, observed: Observed, arms: tuple[str, str]) -> list[ConcurrentArms]:
    """Both variants in each stratum of shares, and in each epoch with a fixed split.

    A fixed split is taken as it came out.
    """
    key = "strata", metric
    if key not in observed.memo:
        observed.memo[key] = _by_stratum(metric, observed)
    by_stratum: list[dict[str, JointTotals]] = observed.memo[key]
    nothing = JointTotals.none(3 if isinstance(metric.measure, Ratio) else 2)
    strata = [
        (
            by_arm.get(arms[0], nothing),
            by_arm.get(arms[1], nothing),
            sum(totals.n for arm, totals in by_arm.items() if arm not in arms),
        )
        for by_arm in by_stratum
        if any(arm in by_arm for arm in arms)
    ]
    if isinstance(metric.measure, Ratio):
        return concurrent.linearised(strata)
    return [ConcurrentArms(*arms_and_others) for arms_and_others in strata]


def _by_stratum(metric: Metric, observed: Observed) -> list[dict[str, JointTotals]]:
    """Return the totals of each variant in each stratum, in the order of epochs and strata."""
    by_place: dict[tuple[int, int], dict[str, JointTotals]] = {}
    for units in observed.drawn:
        if metric.key in units.metrics:
            by_place.setdefault((units.epoch, units.stratum), {})[units.variant] = units.metrics[metric.key]
    moving = {epoch for epoch, _ in by_place}
    for epoch in set(observed.fixed_epochs) - moving:
        totals = {arm: observed.totals(metric.key, arm, epoch=epoch) for arm in observed.variants}
        known = {arm: _outcomes(metric, kept) for arm, kept in totals.items() if kept is not None and kept.n}
        n = sum(kept.n for kept in known.values())
        by_place[epoch, 0] = {arm: drawn_alike(kept, propensity=kept.n / n) for arm, kept in known.items()}
    return [by_arm for _, by_arm in sorted(by_place.items())]


def _outcomes(metric: Metric, totals: MetricTotals) -> MeanTotals | JointTotals:
    """The totals without covariates: of a ratio both its parts."""
    if isinstance(metric.measure, Ratio) and isinstance(totals, JointTotals):
        return totals.select(0, 1)
    return moments_of(metric, totals)
