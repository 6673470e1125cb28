"""Sequential test of rare events: whether one arm has more of them than its share of the traffic.

If requests are assigned independently, a share s of them to the treatment, then *given* that an
event happened it was in the treatment with probability

    theta(r) = s r / (s r + 1 - s),   r = rate in the treatment / rate in the control,

whatever the rate itself is. So only the arms of the events are needed, and the base rate may drift
freely. The test is exact for errors among requests (conditionally on them) and for Poisson counts.
It is also exact if shares move from one period to the next, as in a ramp. A share must not react to
the events of its own period.

The likelihood ratio of r to r0 is a martingale under r0. Averaged over a prior of r on the claimed
side of r0, it is an e-process for "r is at most r0" ("greater") or "at least r0" ("less"). The
prior is discrete, so there is no error of integration. It is a statement about the ratio of rates.
For events that are not rare (above about 20 %) it remains valid but wastes information, because it
ignores the units without the event.

Sources: Lindon & Malek (2020), arXiv 2011.03567; Lindon, Sanden & Shirikian (2022), KDD, arXiv
2205.14762. We depart from them by the prior, which is on log r, one- or two-sided, so that shares
may move.
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray
from scipy import optimize

from stats import checks
from stats.eprocess import EValue
from stats.errors import InsufficientData
from stats.estimate import Alternative
from stats.interval import Interval
from stats.totals import FloatArray

# Distances of log r from log r0 in units of the expected one, and their prior: half-normal.
_DISTANCES: Final = np.geomspace(0.03, 6.0, 48)
_HALF_NORMAL: Final = _DISTANCES * np.exp(-(_DISTANCES**2) / 2)


EVENTS_MIN: Final = 20
"""Expected rare events in the smaller arm from which a normal approximation is near enough."""


def rare(control_n: npt.ArrayLike, treatment_n: npt.ArrayLike, rate: npt.ArrayLike) -> NDArray[np.bool_]:
    """Return whether a proportion needs an exact method, elementwise.

    `rate` is that of both arms together.

    The mean of the smaller arm has the skewness (1 - 2 p) / sqrt(n p (1 - p)). Up to that of
    `EVENTS_MIN` rare events a normal approximation is near enough: it is for half of 100 units, but
    not for 10 events in 10,000. Looked at 100 times with 5 % of the units in one arm and a rate of
    0.0001, the sequence of means alone decided in 25 % of A/A tests. With this rule at most 3.3 %
    decide, at any rate and split.

    Worked by hand: 45 events among 84,572 and none among 4,428: 4,428 * 45 / 89,000 = 2.2 are
    expected.
    """
    p = np.asarray(rate, dtype=float)
    n = np.minimum(control_n, treatment_n)
    return np.asarray((1 - 2 * p) ** 2 * EVENTS_MIN > n * p * (1 - p))


def difference_at(ratio: float, *, rate: float, share: float) -> float:
    """Return the difference of two rates with ratio `ratio` and common rate `rate`.

    The common rate is that of both arms together.

    With the share s of the units in the treatment, rate = s r c + (1 - s) c for the control's rate
    c, so the difference r c - c is rate (r - 1) / (1 + s (r - 1)). It rises with the ratio, and has
    its sign.

    Worked by hand: a ratio of 2 at a rate of 0.03 and half of the units: the control has 0.02, so
    0.02.
    """
    if math.isinf(ratio):
        return rate / share
    return rate * (ratio - 1) / (1 + share * (ratio - 1))


class EventCounts(msgspec.Struct, frozen=True):
    """Events in control and treatment in a period, with the treatment's share of the traffic.

    Raises InvalidInput unless counts are not negative and the share is in (0, 1).
    """

    control: int
    treatment: int
    share: float

    def __post_init__(self) -> None:
        checks.not_negative(self.control, "control")
        checks.not_negative(self.treatment, "treatment")
        checks.open_unit(self.share, "share")


def log_ratio_mixture(
    control: npt.ArrayLike,
    treatment: npt.ArrayLike,
    share: npt.ArrayLike,
    *,
    ratio: float,
    expected_ratio: float,
    alternative: Alternative,
) -> FloatArray:
    """Return the log of the e-process against the null `ratio`.

    From arrays of shape (..., periods) the result has shape (...).

    `expected_ratio` > 1 sets the scale of the prior: |log r - log ratio| is half-normal with that
    logarithm as its scale, two-sided in equal parts on both sides.

    Worked by hand: for one single r = 2 against 1 at share 1/2, an event in the treatment counts
    (2/3) / (1/2) = 4/3.
    """
    events_c, events_t = np.asarray(control, dtype=float), np.asarray(treatment, dtype=float)
    shares = np.asarray(share, dtype=float)
    steps = _DISTANCES * math.log(expected_ratio)
    weights = _HALF_NORMAL
    if alternative == "less":
        steps = -steps
    elif alternative == "two-sided":
        steps, weights = np.concatenate([-steps, steps]), np.concatenate([weights, weights])
    in_treatment = shares * ratio / (shares * ratio + 1 - shares)
    of_both = events_c + events_t
    total = events_t.sum(axis=-1)
    first = (-1,) + (1,) * total.ndim  # the steps, before all other axes
    steps, scale = steps.reshape(first), (weights / weights.sum()).reshape(first)
    logs = total * steps - (of_both * np.log1p(in_treatment * np.expm1(steps)[..., None])).sum(axis=-1)
    most = logs.max(axis=0)
    return np.asarray(most + np.log((scale * np.exp(logs - most)).sum(axis=0)))


def ratio_evalue(
    periods: Sequence[EventCounts],
    *,
    ratio: float = 1.0,
    expected_ratio: float,
    alternative: Alternative = "greater",
) -> EValue:
    """Return the evidence that the treatment's rate is above `ratio` times the control's.

    This holds for "greater"; for "less" it is the evidence that the rate is below.

    Without events there is no evidence: e = 1.
    Raises InvalidInput unless ratio is positive and expected_ratio above 1.
    """
    checks.positive(ratio, "ratio")
    checks.positive(expected_ratio - 1, "expected_ratio - 1")
    log_value = log_ratio_mixture(
        [period.control for period in periods],
        [period.treatment for period in periods],
        [period.share for period in periods],
        ratio=ratio,
        expected_ratio=expected_ratio,
        alternative=alternative,
    )
    return EValue(float(log_value))


def ratio_sequence(
    periods: Sequence[EventCounts],
    *,
    alpha: float,
    expected_ratio: float,
    alternative: Alternative = "two-sided",
) -> Interval:
    """Return a confidence sequence for the ratio of rates.

    It contains all ratios against which the evidence is below 1 / alpha. It is within
    [0, infinity]: an arm without events bounds the ratio on one side only.
    Raises InsufficientData without any event.
    """
    checks.open_unit(alpha, "alpha")
    checks.n_at_least(sum(period.control + period.treatment for period in periods), 1, "events")

    def excess(log_ratio: float) -> float:
        found = ratio_evalue(
            periods, ratio=math.exp(log_ratio), expected_ratio=expected_ratio, alternative=alternative
        )
        return found.log_value + math.log(alpha)

    treatment = sum(period.treatment for period in periods)
    control = sum(period.control for period in periods)
    start = _likeliest(periods)
    lower, upper = 0.0, math.inf
    if alternative != "less" and treatment and excess(-100.0) > 0:
        lower = math.exp(optimize.brentq(excess, -100.0, start, xtol=1e-10))
    if alternative != "greater" and control and excess(100.0) > 0:
        upper = math.exp(optimize.brentq(excess, start, 100.0, xtol=1e-10))
    return Interval(lower, upper)


def _likeliest(periods: Sequence[EventCounts]) -> float:
    """Return the log ratio of greatest likelihood, within [-100, 100].

    At this ratio the treatment has its expected number of events.
    """

    def surplus(log_ratio: float) -> float:
        odds = math.exp(log_ratio)
        return sum(
            period.treatment
            - (period.control + period.treatment)
            * period.share
            * odds
            / (period.share * odds + 1 - period.share)
            for period in periods
        )

    if surplus(-100.0) <= 0:
        return -100.0
    if surplus(100.0) >= 0:
        return 100.0
    return float(optimize.brentq(surplus, -100.0, 100.0))


def likeliest_ratio(periods: Sequence[EventCounts]) -> float:
    """Return the ratio of rates of greatest likelihood.

    Raises InsufficientData unless both arms have events.

    Worked by hand: 19 against 3 at a share of 1/20: odds 3/19 over (1/20)/(19/20) = 3.
    """
    for name in ("control", "treatment"):
        if not sum(getattr(period, name) for period in periods):
            raise InsufficientData(f"needs at least 1 event in the {name}, has 0")
    return math.exp(_likeliest(periods))
