"""Posteriors of the metrics that a policy reads beside the reward. Pure."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import numpy as np

from app.experiments.metrics import Metric, Proportion, QuantileOf
from app.experiments.model import Experiment
from app.ledger.units.measures import CellTotals, Sums, measures_of
from app.ledger.units.metric_totals import moments_of, totals_of
from bandits.arms import Arms, BetaArms, NormalArms
from stats.errors import InsufficientData
from stats.totals import MeanTotals

Moments = Mapping[str, Sequence[MeanTotals]]
"""Means of each metric by its key, with one number per unit, in the order of the variants."""

_PRIOR_SHAPE = 2.0
"""The least at which the variance of a mean is finite."""


def moments_of_cells(
    experiment: Experiment, cells: Sequence[tuple[int, CellTotals]]
) -> dict[str, tuple[MeanTotals, ...]]:
    """Add up cells by variant for every metric but quantiles and those that are still measured."""
    definition, layouts = experiment.definition, experiment.layouts
    measures = measures_of(definition.metrics, definition.plan, definition.stickiness, layouts)
    if measures is None:
        return {}
    of_variant = [CellTotals.none(measures)] * len(definition.variants)
    for variant, totals in cells:
        of_variant[variant] += measures.converted(totals, measures.beside)
    moments = {}
    for number, metric in enumerate(measures.metrics):
        if not isinstance(metric.measure, QuantileOf) and metric.key not in measures.unfinished:
            moments[metric.key] = tuple(_moments(metric, totals.metrics[number]) for totals in of_variant)
    return moments


def _moments(metric: Metric, sums: Sums) -> MeanTotals:
    totals = totals_of(metric, sums)
    try:
        return MeanTotals() if totals is None else moments_of(metric, totals)
    except InsufficientData:
        return MeanTotals()


def metric_posteriors(metrics: Sequence[Metric], moments: Moments) -> dict[str, Arms]:
    """Return the posteriors of the metrics that have a value, by key."""
    posteriors = {metric.key: metric_arms(metric, moments.get(metric.key, ())) for metric in metrics}
    return {key: arms for key, arms in posteriors.items() if arms is not None}


def metric_arms(metric: Metric, moments: Sequence[MeanTotals]) -> Arms | None:
    """Return the posteriors of a metric's means; None if no variant has a value.

    They are Beta for a proportion, under the uniform prior. Otherwise they are Student's t, under a
    prior with the weight of one unit around the mean and variance of all variants together.
    """
    if not any(of_variant.n for of_variant in moments):
        return None
    n = np.array([of_variant.n for of_variant in moments], dtype=np.float64)
    mean = np.array([of_variant.mean for of_variant in moments], dtype=np.float64)
    if isinstance(metric.measure, Proportion):
        return BetaArms(1 + n * mean, 1 + n * (1 - mean))
    together = reduce(add, moments)
    least = (1e-9 * max(abs(together.mean), 1.0)) ** 2
    spread = max(together.m2 / together.n, least)
    return NormalArms.from_totals(
        moments, prior_mean=together.mean, prior_shape=_PRIOR_SHAPE, prior_scale=spread
    )
