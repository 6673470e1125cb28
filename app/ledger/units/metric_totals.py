"""A metric's exact sums as statistics read them. Pure."""

from app.experiments.metrics import Metric, Proportion, Ratio
from app.ledger.rewards.model import NANO
from app.ledger.units.measures import ACCURACY, Sums
from stats.errors import InsufficientData
from stats.quantiles import QuantileSketch
from stats.ratios import ratio_parts
from stats.totals import JointTotals, MeanTotals, ProportionTotals

MetricTotals = ProportionTotals | MeanTotals | JointTotals | QuantileSketch
"""Of a proportion or mean: its totals, or `JointTotals` of (outcome, covariates ...); of a ratio:
`JointTotals` of (numerator, denominator, covariates ...); of a quantile: a sketch."""


def totals_of(metric: Metric, sums: Sums) -> MetricTotals | None:
    """The totals of the units that have a value; None if none has."""
    if isinstance(sums, dict):
        return QuantileSketch.from_counts(sums.items(), accuracy=ACCURACY) if sums else None
    n, dimension = sums[0], 2 if isinstance(metric.measure, Ratio) else 1
    while 1 + dimension + dimension * (dimension + 1) // 2 < len(sums):
        dimension += 1
    if not n:
        return None
    if dimension == 1 and isinstance(metric.measure, Proportion):
        return ProportionTotals(n, sums[1] // NANO)
    firsts, products = sums[1 : 1 + dimension], sums[1 + dimension :]
    pairs = ((x, y) for row, x in enumerate(firsts) for y in firsts[: row + 1])
    # Exact up to the division, which is rounded once.
    mean = tuple(one / (n * NANO) for one in firsts)
    comoments = tuple(
        (n * product - x * y) / (n * NANO**2) for (x, y), product in zip(pairs, products, strict=True)
    )
    return MeanTotals(n, mean[0], comoments[0]) if dimension == 1 else JointTotals(n, mean, comoments)


def moments_of(metric: Metric, totals: MetricTotals) -> MeanTotals:
    """Totals of one number per unit whose mean is the metric, and whose spread is its error.

    Of a ratio by the delta method: each unit's part in the error of the ratio, around the ratio itself. A
    ratio that all units share has no spread.

    Raises InsufficientData if they are not of the metric's kind, or cannot be told.
    """
    match totals:
        case ProportionTotals():
            return totals.moments
        case MeanTotals():
            return totals
        case JointTotals() if isinstance(metric.measure, Ratio):
            return ratio_parts(totals)
        case JointTotals():
            return totals.value(0)
        case _:
            raise InsufficientData(f"{metric.key} has no totals of its kind")
