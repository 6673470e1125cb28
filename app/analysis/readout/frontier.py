"""The variants that no other variant beats in all deciding metrics. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from app.allocation.metrics import metric_arms
from app.analysis.observed import Observed
from app.experiments.metrics import Metric, QuantileOf
from app.ledger.units.metric_totals import moments_of
from bandits.arms import Arms
from bandits.objective import frontier
from stats.errors import InsufficientData
from stats.totals import MeanTotals

_SEED: Final = 20260101
_NONE: Final = MeanTotals(0, 0.0, 0.0)


class FrontierVariant(msgspec.Struct, frozen=True):
    """A variant: `on` the frontier by its means, and the posterior probability of that."""

    variant: str
    on: bool
    probability: float


class Frontier(msgspec.Struct, frozen=True, kw_only=True):
    """The trade-off between `metrics`: the variants on the frontier, and those that another one beats.

    It is an estimate at one look from totals over all epochs, and treats metrics as independent. It decides
    nothing. `probability` is exact to about 0.01.
    """

    metrics: tuple[str, ...]
    variants: tuple[FrontierVariant, ...]


def frontier_of(metrics: Sequence[Metric], observed: Observed) -> Frontier | None:
    """Return the frontier of the primary metrics and guardrails with values; None below two.

    Equal totals give equal bits.
    """
    known: list[tuple[Metric, Arms]] = []
    for metric in metrics:
        if metric.role != "secondary" and not isinstance(metric.measure, QuantileOf):
            arms = metric_arms(metric, [_moments(metric, observed, arm) for arm in observed.variants])
            if arms is not None:
                known.append((metric, arms))
    if len(known) < 2:
        return None
    estimated = frontier(
        [arms for _, arms in known],
        [1 if metric.direction == "higher" else -1 for metric, _ in known],
        rng=np.random.default_rng(_SEED),
    )
    rows = zip(observed.variants, estimated.on.tolist(), estimated.probability.tolist(), strict=True)
    return Frontier(
        metrics=tuple(metric.key for metric, _ in known),
        variants=tuple(FrontierVariant(*row) for row in rows),
    )


def _moments(metric: Metric, observed: Observed, variant: str) -> MeanTotals:
    totals = observed.totals(metric.key, variant)
    if totals is None:
        return _NONE
    try:
        return moments_of(metric, totals)
    except InsufficientData:
        return _NONE
