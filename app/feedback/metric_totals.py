"""A metric's exact sums as statistics read them. Pure."""

from fractions import Fraction

from app.experiments.metrics import Mean, Metric, Proportion, QuantileOf, Ratio
from app.feedback.measures import ACCURACY, Sums
from app.feedback.rewards import NANO
from stats.errors import InsufficientData
from stats.quantiles import QuantileSketch
from stats.ratios import ratio
from stats.totals import JointTotals, MeanTotals, ProportionTotals

MetricTotals = ProportionTotals | MeanTotals | JointTotals | QuantileSketch
"""Of a proportion or mean: its totals, or `JointTotals` of (outcome, covariates ...); of a ratio:
`JointTotals` of (numerator, denominator); of a quantile: a sketch."""


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
    firsts = [Fraction(one, NANO) for one in sums[1 : 1 + dimension]]
    products = [Fraction(one, NANO**2) for one in sums[1 + dimension :]]
    if dimension == 1:
        return MeanTotals.from_sums(n, firsts[0], products[0])
    return JointTotals.from_sums(n, firsts, products)


def moments_of(metric: Metric, totals: MetricTotals) -> MeanTotals:
    """Totals of one number per unit whose mean is the metric, and whose spread is its error.

    Of a ratio by the delta method: each unit's part in the error of the ratio, around the ratio itself.

    Raises InsufficientData if they are not of the metric's kind, or cannot be told.
    """
    match metric.measure, totals:
        case Proportion() | Mean(), ProportionTotals():
            return totals.moments
        case Proportion() | Mean(), MeanTotals():
            return totals
        case Proportion() | Mean(), JointTotals():
            return totals.value(0)
        case Ratio(), JointTotals():
            value, scale = ratio(totals).value, totals.mean[1]
            residual = totals.combine((1 / scale, -value / scale))
            return MeanTotals(totals.n, value, residual.m2)
        case (QuantileOf(), _) | _:
            raise InsufficientData(f"{metric.key} has no totals of its kind")
