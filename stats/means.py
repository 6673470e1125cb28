"""Means at a fixed horizon: Welch's comparison, equivalence and non-inferiority."""

from stats.estimate import Estimate
from stats.totals import MeanTotals


def mean(total: MeanTotals) -> Estimate:
    """Return the mean of one arm, with n - 1 degrees of freedom.

    Worked by hand: observations 1, 3 have mean 2, variance 2, standard error sqrt(2 / 2) = 1, one
    degree.

    Raises InsufficientData if n < 2 or all observations are equal.
    """
    return Estimate.of_independent(total.mean, [_error(total)])


def mean_difference(treatment: MeanTotals, control: MeanTotals) -> Estimate:
    """Return Welch's difference treatment - control: the arms' variances may differ.

    `interval` and `test` of the result are Welch's t; `equivalence_test` is the two one-sided
    tests; `test(null=-margin, alternative="greater")` is non-inferiority when more is better. Not
    covered: repeated looks, units that are not independent, and tails so heavy that a mean of n
    units is far from normal. (Lognormal with sigma 2 and n = 200 rejects 3 % of A/A tests at a
    nominal 5 %.)

    Worked by hand: 1, 3 against 0, 2 differ by 1 with standard error sqrt(1 + 1) and 4 / (1 + 1) =
    2 degrees.

    Raises InsufficientData if an arm has n < 2, or no observation differs from its arm's others.

    Source: Welch (1947), Biometrika 34(1-2).
    """
    return Estimate.of_independent(treatment.mean - control.mean, [_error(treatment), _error(control)])


def _error(total: MeanTotals) -> tuple[float, float]:
    """Return the variance of the mean and its degrees of freedom."""
    return total.variance / total.n, total.n - 1
