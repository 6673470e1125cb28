"""One treated series compared with what it would have been, composed of series that were not treated.

For changes that cannot be randomised (a whole region, a whole product). Donors must not be affected by the
treatment, and must have moved with the treated series before it; how well they did is `variance_reduction`.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from stats import checks
from stats.errors import InvalidInput
from stats.estimate import Estimate
from stats.seasonality import series_mean
from stats.totals import FloatArray


class SeriesEffect(msgspec.Struct, frozen=True):
    """The mean effect per point after the start, the weight of each donor, and the fit before.

    `variance_reduction` is the share of the treated series' variance before that the donors explain; negative
    if they are worse than its own mean.
    """

    effect: Estimate
    weights: tuple[float, ...]
    variance_reduction: float


def synthetic_control(treated: FloatArray, donors: FloatArray, *, n_before: int) -> SeriesEffect:
    """Compare with the mixture of donors (weights >= 0, summing to 1) that fits best before.

    `treated` has the shape (n,), `donors` (n, k), in order of time; the treatment starts at point `n_before`.
    Means before are taken away first, so donors need to run in parallel, not at the same level.

    Worked by hand: donors 0, 1, 0, 1 and 0, 0, 0, 0 and treated 5, 6, 7, 8 with 2 points before: the first
    donor fits perfectly, and the gaps 5, 5, 7, 7 rise by 2 (with more points, or this is refused).

    The error is that of the mean gap after and before, with their autocorrelation: choosing weights on the
    same points makes the gaps before a little too small, so use at least about 5 points per donor before.

    Raises InsufficientData with fewer than 4 points before or after; InvalidInput for shapes that do not fit.

    Source: Abadie, Diamond & Hainmueller (2010), Journal of the American Statistical Association 105(490);
    Doudchenko & Imbens (2016), NBER 22791, for the intercept.
    """
    _check(treated, donors, n_before)
    before, design = _centred(treated[:n_before]), _centred(donors[:n_before])
    scale = max(float(np.abs(design).max()), float(np.abs(before).max()), 1e-300)
    # Non-negative least squares with a heavy row that holds the sum at 1.
    heavy = 1e4
    stacked = np.vstack((design / scale, np.full((1, design.shape[1]), heavy)))
    weights, _ = optimize.nnls(stacked, np.append(before / scale, heavy))
    return _effect(treated, donors, weights / weights.sum(), n_before)


def covariate_series(treated: FloatArray, covariates: FloatArray, *, n_before: int) -> SeriesEffect:
    """Compare with a regression on covariate series, fitted before: CUPED for a series.

    Weights may be negative. Shapes, errors and sources as `synthetic_control`; for few covariates that stand
    in a known relation.

    Worked by hand: treated is 2 covariate before, and 2 covariate + 3 after: weight 2, effect
    3.
    """
    _check(treated, covariates, n_before)
    before, design = _centred(treated[:n_before]), _centred(covariates[:n_before])
    weights = np.linalg.lstsq(design, before, rcond=1e-10)[0]
    return _effect(treated, covariates, weights, n_before)


def _check(treated: FloatArray, donors: FloatArray, n_before: int) -> None:
    if treated.ndim != 1 or donors.ndim != 2 or len(donors) != len(treated) or not donors.shape[1]:
        raise InvalidInput(f"needs shapes (n,) and (n, k), got {treated.shape} and {donors.shape}")
    if not (np.isfinite(treated).all() and np.isfinite(donors).all()):
        raise InvalidInput("series must be finite")
    checks.n_at_least(n_before, 4, "points before")
    checks.n_at_least(len(treated) - n_before, 4, "points after")


def _centred(series: FloatArray) -> FloatArray:
    centred: FloatArray = series - series.mean(axis=0)
    return centred


def _effect(
    treated: FloatArray, donors: FloatArray, weights: NDArray[np.floating], n_before: int
) -> SeriesEffect:
    gaps = treated - donors @ weights
    effect = series_mean(gaps[n_before:]) - series_mean(gaps[:n_before])
    variance = float(np.var(treated[:n_before]))
    reduction = 1 - float(np.var(gaps[:n_before])) / variance if variance > 0 else 0.0
    return SeriesEffect(effect, tuple(weights.tolist()), reduction)
