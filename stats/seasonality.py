"""Series by the hour or minute: what is normal for this time.

A threshold of mean - 3 sd promises a false alarm in 741 points only with an endless history of
independent points. With 12 points it is one in 133, and when values follow each other, or the day
has a shape, far more often. So: remove the shape (`fit_baseline`), allow for what is left of
autocorrelation, and use Student's t.
"""

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from stats import checks
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.interval import Interval
from stats.totals import FloatArray

IntArray = NDArray[np.int64]

HOURS: Final = 24
WEEKDAYS: Final = 7
AUTOCORRELATION_MAX: Final = 0.95
"""Beyond it a series is taken for a random walk, which has no normal level."""


class SeasonalBaseline(msgspec.Struct, frozen=True):
    """The normal level of a series: level + its hour's effect + its weekday's effect.

    `hours` has 24 entries and `weekdays` 7, each averaging 0 over those that were observed; entries
    never observed are None. `sd` is that of a point around its normal level, with
    `degrees_of_freedom`; `autocorrelation` that of neighbouring residuals; `leverage` the error
    variance of the normal level over sd^2, on average over points.
    """

    level: float
    hours: tuple[float | None, ...]
    weekdays: tuple[float | None, ...]
    sd: float
    autocorrelation: float
    leverage: float
    degrees_of_freedom: float

    def expected(self, hour: int, weekday: int) -> float:
        """Return the normal level.

        Raises InsufficientData if that hour or weekday was never observed.
        """
        effects = (self.hours[_at(hour, HOURS, "hour")], self.weekdays[_at(weekday, WEEKDAYS, "weekday")])
        if effects[0] is None or effects[1] is None:
            raise InsufficientData(f"hour {hour} of weekday {weekday} was never observed")
        return self.level + effects[0] + effects[1]

    def limits(self, hour: int, weekday: int, *, false_alarm: float) -> Interval:
        """Return the limits for a normal point at that time.

        It passes each of them with probability about `false_alarm`. The limits are Student's t and
        include the error of the normal level. They hold per point: with autocorrelation, alarms
        come in runs. Raises InsufficientData as `expected`.
        """
        checks.open_unit(2 * false_alarm, "2 * false_alarm")
        error = self.sd * math.sqrt(1 + self.leverage)
        one = Estimate(self.expected(hour, weekday), error, self.degrees_of_freedom)
        return one.interval(alpha=2 * false_alarm)


def fit_baseline(values: FloatArray, hours: IntArray, weekdays: IntArray) -> SeasonalBaseline:
    """Return the seasonal baseline of a series in order of time.

    Arrays of shape (n,), hours 0 to 23, weekdays 0 to 6. Ordinary least squares on hour-of-day and
    day-of-week effects that add up. For a metric whose season multiplies, give logarithms. The
    lag-one autocorrelation r of the residuals, corrected for its bias, describes all dependence (an
    autoregression of order one). From r follow what fitting took from the residuals' squares and
    the error of the fitted level. For the sd, n points carry the information of n (1 - r^2) /
    (1 + r^2) independent ones.

    Worked by hand: two days of hours 0, 1 with values 1, 3 and 1, 3 on the same weekday have the
    level 2, the effects -1, +1, and no residual: refused. With 1, 3 and 3, 5 the residuals are -1,
    -1, 1, 1.

    Raises InsufficientData unless some effective points are left beyond the parameters, and they
    have spread; InvalidInput for values that are not finite, or times out of range.

    Source: Bartlett (1946), Journal of the Royal Statistical Society Supplement 8(1), eq. 7;
    Kendall (1954), Biometrika 41(3-4) for the bias -(1 + 3 r) / n of r around one mean.
    """
    if not values.shape == hours.shape == weekdays.shape or values.ndim != 1:
        raise InvalidInput(f"shapes differ: {values.shape}, {hours.shape}, {weekdays.shape}")
    if not np.isfinite(values).all():
        raise InvalidInput("values must be finite")
    n = len(values)
    checks.n_at_least(n, 4, "points")
    together = _counts(hours, weekdays)
    centres = (together.sum(axis=1) > 0, together.sum(axis=0) > 0)
    per_hour = np.maximum(together.sum(axis=1), 1.0)
    # Hours are fitted first. What weekdays add is their indicators less their share of each hour:
    # their squares are a small matrix, whose inverse square root makes them orthonormal.
    share = together / per_hour[:, None]
    squares = np.diag(together.sum(axis=0)) - together.T @ share
    size, axes = np.linalg.eigh(squares)
    identified = size > 1e-9 * n
    scaled = axes[:, identified] / np.sqrt(size[identified])
    beyond_hours = scaled[weekdays] - (share @ scaled)[hours]
    basis = np.concatenate((np.eye(HOURS)[hours] / np.sqrt(per_hour[hours])[:, None], beyond_hours), axis=1)
    basis = basis[:, np.concatenate((centres[0], np.ones(beyond_hours.shape[1], dtype=bool)))]
    level = float(values.mean())
    # einsum: long thin products would be spread over threads, which wait for each other on a busy
    # machine.
    residuals = values - level - np.einsum("np,p->n", basis, np.einsum("np,n->p", basis, values - level))
    by_weekday = scaled @ np.einsum("np,n->p", beyond_hours, values - level)
    by_hour = np.bincount(hours, values - level, minlength=HOURS) / per_hour - share @ by_weekday
    parts = (by_hour, by_weekday)
    averages = [float(part[seen].mean()) for part, seen in zip(parts, centres, strict=True)]
    shown = [
        tuple(float(effect - average) if was else None for effect, was in zip(part, seen, strict=True))
        for part, seen, average in zip(parts, centres, averages, strict=True)
    ]
    dependence = _dependence(residuals, basis)
    return SeasonalBaseline(level + sum(averages), shown[0], shown[1], *dependence)


def _dependence(residuals: FloatArray, basis: FloatArray) -> tuple[float, float, float, float]:
    """Return sd, autocorrelation, leverage and degrees of freedom of a projection's residuals.

    `basis`, shape (n, parameters), is an orthonormal basis of what was fitted. With R the matrix of
    correlations r^|s - t|, fitting takes the trace of basis' R basis, in variances, from the
    squares of the residuals.
    """
    n, parameters = basis.shape
    squares = float(residuals @ residuals)
    if n <= parameters + 3 or squares <= 1e-24 * n * float(np.abs(residuals).max()) ** 2 or not squares:
        raise InsufficientData("the series has no spread left around its season")
    raw = float(residuals[1:] @ residuals[:-1]) / squares
    # Fitting pulls neighbouring residuals apart by the basis' own products of neighbours.
    corrected = raw + float((basis[1:] * basis[:-1]).sum()) / (n - parameters)
    r = min(max(corrected / (1 - 3 / n), 0.0), AUTOCORRELATION_MAX)
    bands = np.array([np.ones(n), np.full(n, -r)])  # y_t - r y_t-1 = x_t
    forward = linalg.solve_banded((1, 0), bands, basis)
    # Of both directions of time the product with the basis is the same; the point itself counts
    # once.
    lost = float((basis * (2 * forward - basis)).sum())
    freedom = (n - lost) * (1 - r * r) / (1 + r * r)
    if freedom < 1:
        raise InsufficientData(f"{n} points with autocorrelation {r:.2f} leave nothing beyond the season")
    return math.sqrt(squares / (n - lost)), r, lost / n, freedom


def _counts(hours: IntArray, weekdays: IntArray) -> FloatArray:
    """Return how many points fell on each hour of each weekday, shape (24, 7)."""
    for times, period, name in ((hours, HOURS, "hour"), (weekdays, WEEKDAYS, "weekday")):
        if not (times.min() >= 0 and times.max() < period):
            raise InvalidInput(f"{name} must be in [0, {period}), got {times.min()} to {times.max()}")
    counts = np.zeros((HOURS, WEEKDAYS))
    np.add.at(counts, (hours, weekdays), 1)
    return counts


def _at(time: int, period: int, name: str) -> int:
    if not 0 <= time < period:
        raise InvalidInput(f"{name} must be in [0, {period}), got {time}")
    return time
