"""Length bias of a judge: whether it overrates long responses.

Variants differ in length, and a judge that rewards length then prefers the longer variant. The
slope of (judge - human) on length says how much; prediction-powered estimates remove it.
"""

import numpy as np
from numpy.typing import NDArray

from stats import checks
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.totals import FloatArray, JointTotals

_ROUNDING = 1e-12


def length_totals(
    difference: FloatArray,
    length: FloatArray,
    *,
    inclusion: FloatArray | None = None,
    units: NDArray[np.int64] | None = None,
) -> JointTotals:
    """Sum judge minus human, and length, of labelled responses, all of shape (n,), per unit.

    The five values are (w, w l, w g, w l^2, w l g) with length l, difference g and weight w = 1 /
    inclusion. Give the length in thousands of characters, so that squares lose no digits.

    Raises InvalidInput if a probability is not in (0, 1], a value is not finite, or shapes differ.
    """
    inclusion = np.ones(len(length)) if inclusion is None else inclusion
    units = np.arange(len(length)) if units is None else units
    if not difference.shape == length.shape == inclusion.shape == units.shape:
        raise InvalidInput(
            f"shapes differ: {difference.shape}, {length.shape}, {inclusion.shape}, {units.shape}"
        )
    if not ((inclusion > 0) & (inclusion <= 1)).all():
        raise InvalidInput("inclusion probabilities must be in (0, 1]")
    if not len(length):
        return JointTotals.none(5)
    values = (np.ones(len(length)), length, difference, length**2, length * difference)
    rows = np.stack(values, axis=1) / inclusion[:, None]
    _, codes = np.unique(units, return_inverse=True)
    sums = np.zeros((int(codes.max()) + 1, 5))
    np.add.at(sums, codes, rows)
    return JointTotals.from_observations(sums)


def length_bias(total: JointTotals) -> Estimate:
    """Estimate the slope of judge minus human on length, clustered by unit.

    `total` is that of `length_totals`. The slope is that of weighted least squares, and its error
    the cluster-robust one with the factor m / (m - 2) for m effective units.

    Worked by hand: lengths 0, 1, 2 with differences 0, 1, 2 have slope 1 and no residual, so
    they are refused: nothing says how sure they make us.

    Raises InsufficientData with fewer than 4 effective units, if all lengths are equal, or without
    residuals; InvalidInput unless there are 5 values.

    Source: White (1980), Econometrica 48(4); Liang & Zeger (1986) for clusters; as a linear form of
    the five means (delta method).
    """
    if total.dimension != 5:
        raise InvalidInput(f"needs the 5 values of length_totals, got {total.dimension}")
    weight = total.value(0)
    squares = weight.m2 + weight.n * weight.mean**2
    effective = (weight.n * weight.mean) ** 2 / squares if squares else 0.0
    checks.n_at_least(int(effective + 1e-6), 4, "units with a label and a score")
    w, wl, wg, wll, wlg = total.mean
    mean_length, mean_difference = wl / w, wg / w
    spread = wll - wl * mean_length
    if spread <= _ROUNDING * wll:
        raise InsufficientData("all responses have the same length, so there is no slope")
    slope = (wlg - wl * mean_difference) / spread
    intercept = mean_difference - slope * mean_length
    # w (l - mean l) (g - intercept - slope l), as weights of the five values.
    form = [mean_length * intercept, mean_length * slope - intercept, -mean_length, -slope, 1.0]
    residuals = total.combine([value / spread for value in form])
    freedom = effective - 2
    if residuals.m2 <= _ROUNDING * total.n * wlg**2 / spread**2:
        raise InsufficientData("judge minus human is an exact line in length, so the slope has no error")
    return Estimate.of_independent(slope, [(residuals.m2 / total.n**2 * effective / freedom, freedom)])
