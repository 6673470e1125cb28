"""Totals of a metric for `stats`, from its exact sums. Pure."""

from app.experiments.metrics import Metric, Proportion, Ratio
from app.ledger.rewards.composite import NANO
from app.ledger.units.measures import ACCURACY, Sums
from stats.errors import InsufficientData
from stats.quantiles import QuantileSketch
from stats.ratios import ratio_parts
from stats.totals import JointTotals, MeanTotals, ProportionTotals

MetricTotals = ProportionTotals | MeanTotals | JointTotals | QuantileSketch
"""Totals of a proportion or mean, or `JointTotals` of (outcome, covariates ...); for a ratio, `JointTotals`
of (numerator, denominator, covariates ...); for a quantile, a sketch."""


def totals_of(metric: Metric, sums: Sums) -> MetricTotals | None:
    """Return the totals of the units that have a value; None if no unit has one."""
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
    mean = tuple(total / (n * NANO) for total in firsts)
    comoments = tuple(
        (n * product - x * y) / (n * NANO**2) for (x, y), product in zip(pairs, products, strict=True)
    )
    return MeanTotals(n, mean[0], comoments[0]) if dimension == 1 else JointTotals(n, mean, comoments)


def moments_of(metric: Metric, totals: MetricTotals) -> MeanTotals:
    """Return totals of one number per unit: their mean is the metric, and their variance gives its error.

    For a ratio the delta method gives each unit's part in the error of the ratio, around the ratio itself.
    If all units share one ratio, the variance is 0.

    Raises InsufficientData if the totals are not of the metric's kind, or do not determine the metric.
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
            raise InsufficientData(f"the totals of {metric.key} do not fit its measure")
