"""Totals of two variants beside each other, one pair per epoch. Pure."""

import math
from collections.abc import Sequence

from app.analysis.observed import Observed
from app.ledger.units.metric_totals import MetricTotals
from stats.sequences import effective_units
from stats.totals import JointTotals, MeanTotals, ProportionTotals

Pairs = Sequence[tuple[MetricTotals, MetricTotals]]
"""Totals of (control, treatment), one pair per epoch."""
MeanPairs = Sequence[tuple[MeanTotals, MeanTotals]]
"""The same with one number per unit."""


def pairs_of(
    observed: Observed,
    metric: str,
    arms: tuple[str, str],
    *,
    epochs: Sequence[int] | None = None,
    segment: str | None = None,
) -> Pairs:
    """Return the totals of both arms in every epoch in which both have a value."""
    pairs = []
    for epoch in observed.epochs if epochs is None else epochs:
        control, treatment = (observed.totals(metric, arm, epoch=epoch, segment=segment) for arm in arms)
        if control is not None and treatment is not None and min(control.n, treatment.n) > 0:
            pairs.append((control, treatment))
    return pairs


def counts_of(totals: MetricTotals) -> ProportionTotals:
    """Return the totals of a proportion, which may be stored together with covariates."""
    if isinstance(totals, ProportionTotals):
        return totals
    assert isinstance(totals, JointTotals | MeanTotals), "a proportion has counts or moments"
    mean = totals.mean[0] if isinstance(totals, JointTotals) else totals.mean
    return ProportionTotals(totals.n, min(max(round(totals.n * mean), 0), totals.n))


def comparable_means(
    pairs: Sequence[tuple[MeanTotals | ProportionTotals, MeanTotals | ProportionTotals]],
) -> tuple[float, float]:
    """Return the means of (control, treatment), with the same weight per epoch for both."""
    weights = [effective_units(control.n, treatment.n) for control, treatment in pairs]
    control, treatment = (
        math.fsum(weight * pair[arm].mean for weight, pair in zip(weights, pairs, strict=True))
        / math.fsum(weights)
        for arm in (0, 1)
    )
    return control, treatment
