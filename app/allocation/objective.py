"""What a policy maximises beyond the reward: constraints on other metrics, and weights for them. Pure."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import numpy as np

from app.experiments.metrics import Metric, Proportion, QuantileOf
from app.experiments.model import Bound, ConstrainedThompsonPolicy, Definition
from app.ledger.units.measures import CellTotals, Sums, measures_of
from app.ledger.units.metric_totals import moments_of, totals_of
from bandits.allocation import Allocation, fixed
from bandits.arms import Arms, BetaArms, NormalArms
from bandits.objective import Constraint, constrained_thompson, scalarised
from stats.errors import InsufficientData
from stats.totals import MeanTotals

Moments = Mapping[str, Sequence[MeanTotals]]
"""Of each metric, by its key, one number per unit: of the variants in their order."""

_PRIOR_SHAPE = 2.0
"""The least at which the variance of a mean is finite."""


def constrained(
    policy: ConstrainedThompsonPolicy, definition: Definition, reward: Arms, moments: Moments
) -> Allocation:
    """The shares of the policy; the control's where no variant meets the constraints.

    Posteriors of different metrics are taken as independent.
    """
    metrics = {metric.key: metric for metric in definition.metrics}
    known = {
        key: arms
        for key in policy.metrics
        if (arms := metric_arms(metrics[key], moments.get(key, ()))) is not None
    }
    constraints = [
        Constraint(known.get(bound.metric) or _unknown(bound, len(definition.variants)), *_sides(bound))
        for bound in policy.constraints
    ]
    weighed = {key: weight for key, weight in policy.weights.items() if key in known and weight}
    objective = (
        scalarised([reward, *(known[key] for key in weighed)], [1.0, *weighed.values()])
        if weighed
        else reward
    )
    control = fixed([float(variant.control) for variant in definition.variants])
    return constrained_thompson(
        objective, constraints, when_none=control, exploration_floor=policy.exploration_floor
    )


def moments_of_cells(
    definition: Definition, cells: Sequence[tuple[int, CellTotals]]
) -> dict[str, tuple[MeanTotals, ...]]:
    """What cells, each with the position of its variant, come to for every metric but quantiles."""
    measures = measures_of(definition.metrics, definition.plan, definition.stickiness)
    if measures is None:
        return {}
    of_variant = [CellTotals.none(measures)] * len(definition.variants)
    for variant, totals in cells:
        of_variant[variant] += totals
    found = {}
    for number, metric in enumerate(measures.metrics):
        if not isinstance(metric.measure, QuantileOf):
            found[metric.key] = tuple(_moments(metric, totals.metrics[number]) for totals in of_variant)
    return found


def _moments(metric: Metric, sums: Sums) -> MeanTotals:
    totals = totals_of(metric, sums)
    try:
        return MeanTotals() if totals is None else moments_of(metric, totals)
    except InsufficientData:
        return MeanTotals()


def metric_arms(metric: Metric, moments: Sequence[MeanTotals]) -> Arms | None:
    """The posteriors of the variants' means of a metric; None if no variant has a value.

    Of a proportion Beta, under the uniform prior; else Student's t, under a prior with the weight of one unit
    around the mean and variance of all variants together.
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


def _sides(bound: Bound) -> tuple[float, float]:
    return (
        -np.inf if bound.at_least is None else bound.at_least,
        np.inf if bound.at_most is None else bound.at_most,
    )


def _unknown(bound: Bound, n_variants: int) -> Arms:
    """Posteriors of which half is on either side of a bound, and next to nothing beyond another one."""
    lower, upper = _sides(bound)
    at = lower if np.isfinite(lower) else upper
    scale = (upper - lower) / 1e6 if np.isfinite(upper - lower) else 1.0
    return NormalArms(np.full(n_variants, at), np.full(n_variants, scale), np.full(n_variants, 1e9))
