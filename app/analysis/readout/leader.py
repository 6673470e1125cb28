"""The leader of an experiment, and what serving a variant may cost. Pure."""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from scipy import special

from app.analysis.evidence.comparison import compare
from app.analysis.evidence.effect import ConcurrentEvidence, Evidence
from app.analysis.evidence.planned import closed
from app.analysis.observed import Observed
from app.analysis.readout.recommendation import Loss
from app.analysis.readout.record import Leader
from app.experiments.metrics import Direction, Metric
from app.experiments.plan import AnalysisPlan
from stats.interval import Interval

UNANSWERED: Final = (ValueError, ArithmeticError)
"""Errors of a statistic whose data are too few or unsuitable. They concern one metric only."""


def excludes_zero(evidence: Evidence, level: float) -> bool:
    """Return whether the interval excludes 0; a p-value of its rule gives the same answer."""
    if evidence.p_value is not None:
        return evidence.p_value < level
    try:
        interval = evidence.interval(level)
    except UNANSWERED:
        return False
    return interval.lower > 0 or interval.upper < 0


def turned(interval: Interval, direction: Direction) -> Interval:
    """Return the interval turned so that more is better."""
    return interval if direction == "higher" else Interval(-interval.upper, -interval.lower)


def active(observed: Observed, variants: Sequence[str]) -> tuple[str, ...]:
    """Return those of the variants that are still served."""
    return tuple(variant for variant in variants if variant not in observed.retired)


def leader_of(metric: Metric, plan: AnalysisPlan, observed: Observed, level: float) -> Leader | None:
    """Return the leader; None while no variant has a known effect."""
    best = leading(metric, plan, observed)
    if best is None:
        return None
    undecided = tuple(
        arm
        for arm in active(observed, observed.variants)
        if arm != best and not _beats(metric, plan, observed, best, arm, level=level)
    )
    return Leader(variant=best, declared=not undecided, level=level, undecided=undecided)


def leading(metric: Metric, plan: AnalysisPlan, observed: Observed) -> str | None:
    """Return the served variant with the best estimate; None while no effect is known."""
    effects = {observed.control: 0.0}
    for arm in active(observed, observed.treatments):
        with suppress(*UNANSWERED):
            control, estimate = compare(metric, plan, observed, arm).evidence.means
            effects[arm] = estimate - control
    if len(effects) < 2:
        return None
    sign = 1 if metric.direction == "higher" else -1
    return max(effects, key=lambda arm: sign * effects[arm])


def _beats(
    metric: Metric, plan: AnalysisPlan, observed: Observed, best: str, other: str, *, level: float
) -> bool:
    if not observed.adaptive and closed(plan, observed.units()):
        return False
    try:
        interval = compare(metric, plan, observed, best, control=other).evidence.interval(level)
    except UNANSWERED:
        return False
    return turned(interval, metric.direction).lower > 0


def loss_of(
    metric: Metric | None, plan: AnalysisPlan, observed: Observed, variant: str, level: float
) -> Loss:
    """Return what serving a variant costs against the best of the others.

    The expected loss is averaged over a normal distribution around each difference, and added up
    over the others: at least that against the best of them.

    Worked by hand: a difference of 0 with standard error 1 loses 1 / sqrt(2 pi) = 0.399.
    """
    if metric is None:
        return Loss(None, None)
    expected, bound = 0.0, 0.0
    for other in active(observed, observed.variants):
        if other == variant:
            continue
        try:
            evidence = compare(metric, plan, observed, variant, control=other).evidence
            lower = turned(evidence.interval(level), metric.direction).lower
            control, estimate = evidence.means
        except UNANSWERED:
            return Loss(None, None)
        bound = max(bound, -lower)
        error = evidence.standard_error
        lead = evidence.once.value if isinstance(evidence, ConcurrentEvidence) else estimate - control
        z = (lead if metric.direction == "higher" else -lead) / error if error else math.nan
        expected += (error or math.nan) * (
            math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) - z * float(special.ndtr(-z))
        )
    return Loss(None if math.isnan(expected) else max(expected, 0.0), bound if math.isfinite(bound) else None)
