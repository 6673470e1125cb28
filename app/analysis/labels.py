"""Comparisons of labels with and without a signal, and calibrations to labels. Pure."""

import math
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from stats.agreement import cohen_kappa
from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.interval import Interval
from stats.means import mean
from stats.proportions import difference_of_bounds, exact_interval
from stats.ratios import ratio_parts
from stats.totals import JointTotals, ProportionTotals

POINTS_MAX: Final = 16
"""Most points of a calibration; more values are put together."""
_LEVEL: Final = 0.05
_GOOD: Final = 0.5
"""A label above this score counts as good."""

Floats = NDArray[np.float64]


class Labelled(NamedTuple):
    """Label scores in [0, 1] by assignment, NaN without a label, and units of assignments."""

    scores: Floats
    units: NDArray[np.int64]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Mask of the assignments that have a label."""
        return ~np.isnan(self.scores)


class Share(msgspec.Struct, frozen=True):
    """The mean label score of `n` assignments, with an interval at 95 %."""

    n: int
    score: float
    interval: Interval


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Mean label scores of assignments with and without a signal.

    `condition` says what "with" means: the signal is `present`, or its value is `above` the
    threshold, among the assignments that have it. `difference` is the mean with it minus the mean
    without it. `agreed` is the share of labelled assignments where signal and label say the same,
    and `kappa` their agreement beyond chance; null if one of them never changes.
    """

    condition: str
    threshold: float | None
    with_signal: Share
    without: Share
    difference: float
    interval: Interval
    agreed: float
    kappa: float | None
    kappa_interval: Interval | None


class Point(msgspec.Struct, frozen=True):
    """The mean label score at a value of a signal, or at a mean of neighbouring values."""

    value: float
    score: float
    interval: Interval
    n: int


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """A monotone map from the values of a signal to label scores.

    `weight` is the squared correlation of the mapped value with the label: the part of the labels'
    variance that the signal explains. `is_event`: values are 1 where the signal is present, else 0.
    """

    points: tuple[Point, ...]
    weight: float
    weight_interval: Interval
    is_event: bool


def compared(labels: Labelled, values: Floats, *, is_event: bool, lower_is_better: bool) -> Comparison | None:
    """Compare labels with and without a signal; None if one side has no labels.

    `values` are by assignment, NaN without the signal.
    """
    has = ~np.isnan(values)
    threshold = None if is_event else float(np.median(values[has & labels.known]))
    above = has if threshold is None else values > threshold
    among = labels.known if is_event else labels.known & has
    positive, negative = _share(labels, among & above), _share(labels, among & ~above)
    if positive is None or negative is None:
        return None
    says_good = ~above if lower_is_better else above
    good = labels.scores > _GOOD
    kappa = _kappa(labels, says_good, good, among)
    return Comparison(
        condition="present" if is_event else "above",
        threshold=threshold,
        with_signal=positive,
        without=negative,
        difference=positive.score - negative.score,
        interval=difference_of_bounds(positive.score, positive.interval, negative.score, negative.interval),
        agreed=float((says_good == good)[among].mean()),
        kappa=None if kappa is None else kappa.value,
        kappa_interval=None if kappa is None else kappa.interval(alpha=_LEVEL),
    )


def fitted(labels: Labelled, values: Floats, *, is_event: bool) -> Fit | None:
    """Fit a monotone map from values to labels; None if the values do not differ.

    The map rises or falls, whichever fits better. Source: Barlow & Brunk (1972), Journal of the
    American Statistical Association 67(337), for the pooling of adjacent violators.
    """
    if is_event:
        values = np.where(np.isnan(values), 0.0, 1.0)
    chosen = labels.known & ~np.isnan(values)
    x, y = values[chosen], labels.scores[chosen]
    groups = _groups(x)
    if groups.max(initial=0) < 1:
        return None
    counts = np.bincount(groups)
    centres, means = np.bincount(groups, x) / counts, np.bincount(groups, y) / counts
    rising = float(np.corrcoef(groups, y)[0, 1]) >= 0 if np.ptp(y) > 0 else True
    scores = optimize.isotonic_regression(means, weights=counts, increasing=rising).x
    places = np.flatnonzero(chosen)
    points = []
    for number in range(len(counts)):
        members = np.zeros(len(values), np.bool_)
        members[places[groups == number]] = True
        share = _share(labels, members)
        assert share is not None
        points.append(Point(float(centres[number]), float(scores[number]), share.interval, share.n))
    weight, around = _explained(scores[groups], y, len(np.unique(labels.units[chosen])))
    return Fit(points=tuple(points), weight=weight, weight_interval=around, is_event=is_event)


def _groups(x: Floats) -> NDArray[np.int64]:
    """Return the group of each value: each value its own, or groups of similar size and order."""
    distinct, place = np.unique(x, return_inverse=True)
    if len(distinct) <= POINTS_MAX:
        return place.astype(np.int64)
    edges = np.unique(np.quantile(x, np.linspace(0, 1, POINTS_MAX + 1)[1:-1]))
    _, groups = np.unique(np.searchsorted(edges, x, side="left"), return_inverse=True)
    return groups.astype(np.int64)


def _share(labels: Labelled, chosen: NDArray[np.bool_]) -> Share | None:
    """Return the mean label of the chosen assignments; None if there is none.

    The interval is exact for the number of independent yes-or-no answers that the labels are worth.
    Source: Korn & Graubard (1998), Survey Methodology 24(2). We round that number down.
    """
    n = int(chosen.sum())
    if not n:
        return None
    scores = labels.scores[chosen]
    score = float(scores.mean())
    _, place = np.unique(labels.units[chosen], return_inverse=True)
    sums = np.stack([np.bincount(place, scores), np.bincount(place).astype(np.float64)], axis=1)
    worth = float(len(sums))
    try:
        error = mean(ratio_parts(JointTotals.from_observations(sums))).standard_error
        worth = min(score * (1 - score) / error**2, float(n))
    except InsufficientData:
        pass  # without any spread each unit is one answer
    answers = max(math.floor(worth), 1)
    return Share(n, score, exact_interval(ProportionTotals(answers, round(score * answers)), alpha=_LEVEL))


def _kappa(
    labels: Labelled, says_good: NDArray[np.bool_], good: NDArray[np.bool_], among: NDArray[np.bool_]
) -> Estimate | None:
    """Return Cohen's kappa of signal and label, with an error that takes units as clusters."""
    units, place = np.unique(labels.units[among], return_inverse=True)
    cell = 2 * says_good[among].astype(np.int64) + good[among]
    clustered = len(units) < int(among.sum())
    n_tables = len(units) if clustered else 1
    counts = np.bincount((place if clustered else 0) * 4 + cell, minlength=4 * n_tables)
    tables = counts.reshape(n_tables, 2, 2)
    try:
        return cohen_kappa(tables if clustered else tables[0])
    except InsufficientData:
        return None


def _explained(scores: Floats, y: Floats, units: int) -> tuple[float, Interval]:
    """Return the squared correlation of scores and labels, with Fisher's interval for the units."""
    if np.ptp(scores) == 0 or np.ptp(y) == 0:
        return 0.0, Interval(0.0, 1.0)
    r = min(abs(float(np.corrcoef(scores, y)[0, 1])), 1 - 1e-12)
    radius = float(special.ndtri(1 - _LEVEL / 2)) / math.sqrt(max(units - 3, 1))
    low, high = math.tanh(max(math.atanh(r) - radius, 0.0)), math.tanh(math.atanh(r) + radius)
    return r**2, Interval(low**2, high**2)
