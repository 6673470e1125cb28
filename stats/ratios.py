"""Ratio and clustered metrics.

A metric is the sum of a numerator over the sum of a denominator; units differ in size.

Clicks per session when *users* are randomised; a mean over requests when each user sends many. The
totals hold (numerator, denominator) per unit; a mean over clusters is the ratio of (sum, count) per
cluster. Treating sessions as independent instead rejects far too often: 17.5 % of the A/A tests in
`benchmarks/calibrate_fixed.py`, at a nominal 5 %.
"""

import math
from typing import Final

import numpy as np

from stats import checks
from stats.errors import InsufficientData, InvalidInput
from stats.totals import JointTotals, MeanTotals

_DENOMINATOR_ERRORS_MIN: Final = 3.0
"""Standard errors that the mean denominator must be away from 0 for the delta method."""

_ROUNDING: Final = 1e-13
"""A smaller part of a sum of squares than this is what rounding leaves of 0."""


def ratio_parts(total: JointTotals) -> MeanTotals:
    """Return totals of one number per unit: the mean is the ratio, the spread its error.

    This is the delta method. The ratio R errs like the mean of (numerator - R denominator) /
    mean(denominator), so methods for means take these totals. `stats.means.mean` and
    `mean_difference` then give the cluster-robust least squares estimate with the factor G /
    (G - 1), G being the number of units. (statsmodels' `cov_type="cluster"` also has the factor
    (N - 1) / (N - k).) The spread is 0 if the ratio is the same for every unit. Values after
    numerator and denominator, such as covariates, are left out.

    Worked by hand: 50 times the units (1, 1), (1, 3): mean 1 / 2, and residuals 0.25 and -0.25
    after dividing by the mean denominator 2: m2 = 100 / 16.

    Raises InsufficientData if there is no unit, or the mean denominator is less than 3 standard
    errors from 0; InvalidInput unless the totals have two values or more.

    Source: Cochran (1977), Sampling Techniques, eq. 6.13; Deng, Knoblich & Lu (2018), KDD, eq. 4
    (delta method). Needs many units (about 30), not many sessions; a few units with most of the
    sessions are few units.
    """
    value, weights = _linear(total)
    return MeanTotals(total.n, value, _residual_m2(total, weights))


def with_covariates(total: JointTotals) -> JointTotals:
    """Return the totals of (part, covariates...) from (numerator, denominator, covariates...).

    The part is the number per unit of `ratio_parts`. `stats.variance_reduction` takes these totals:
    the covariates then explain a part of the ratio's error.

    Worked by hand: the units (2, 1, 5) and (4, 2, 7) have the ratio 2 and the residuals 0 and 0,
    which vary with no covariate: co-moments 0; 0, 2.

    Raises as `ratio_parts`.

    Source: Deng, Xu, Kohavi & Walker (2013), WSDM, for CUPED on ratios by the delta method; the
    algebra of the totals is ours.
    """
    value, weights = _linear(total)
    k = total.dimension - 2
    transform = np.zeros((1 + k, total.dimension))
    transform[0, :2] = weights
    transform[1:, 2:] = np.eye(k)
    matrix = transform @ total.matrix @ transform.T
    matrix[0, 0] = _residual_m2(total, weights)
    if not matrix[0, 0]:
        matrix[0, 1:] = matrix[1:, 0] = 0.0
    rows, columns = np.tril_indices(1 + k)
    return JointTotals(total.n, (value, *total.mean[2:]), tuple(matrix[rows, columns].tolist()))


def _residual_m2(total: JointTotals, weights: tuple[float, float]) -> float:
    """Sum of squared residuals.

    It is 0 if only rounding is left, as for a ratio that all units share.
    """
    pair = total if total.dimension == 2 else total.select(0, 1)
    m2 = pair.combine(weights).m2
    size = weights[0] ** 2 * pair.comoments[0] + weights[1] ** 2 * pair.comoments[2]
    return m2 if m2 > _ROUNDING * size else 0.0


def _linear(total: JointTotals) -> tuple[float, tuple[float, float]]:
    """Return the ratio and the weights of numerator and denominator in its residual."""
    if total.dimension < 2:
        raise InvalidInput(f"needs totals of (numerator, denominator), got {total.dimension} values")
    checks.n_at_least(total.n, 1, "units")
    denominator = total.value(1)
    spread = denominator.variance if total.n > 1 else 0.0
    if abs(denominator.mean) < _DENOMINATOR_ERRORS_MIN * math.sqrt(spread / total.n) or not denominator.mean:
        raise InsufficientData("the mean denominator is not far enough from 0 for a ratio")
    value = total.mean[0] / denominator.mean
    # Dividing before combining keeps the residual's digits when numerator and denominator differ in
    # scale.
    return value, (1 / denominator.mean, -value / denominator.mean)
