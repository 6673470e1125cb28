"""The rules of other tools, as they are published, for a canary and a control of single requests.

A rule sees one stage: requests of the canary and of an equally large baseline, in the order of their time,
spread over a day. It says after how many requests of the canary it aborts, or None. Where a choice is left to
whoever sets a rule up, the most usual one is taken, in favour of the rule where there is doubt: limits are
set from the true values of the healthy control.

Sources: Kayenta's judge (Mann-Whitney, confidence 0.98, tolerance 0.25 of the estimated shift, score below 75
fails; github.com/spinnaker/kayenta, NetflixACAJudge and MannWhitneyClassifier); Flagger's documented analysis
(interval 1 minute, 5 failed checks, success rate at least 99 %, 99th percentile of the duration below a
limit); Argo Rollouts' documented AnalysisTemplate (interval 5 minutes, failureLimit 3, success rate at least
95 %). Point rules: error rate of the last 500 above 2 %, mean of the last 200 or 95th percentile of the last
100 above 1.1 times the control's.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import optimize, special
from scipy.stats import rankdata

from benchmarks.rollout_simulation import World

MINUTES = 1_440


class Requests(NamedTuple):
    """Of one variant on one day: shapes (n,). They come evenly."""

    errors: np.ndarray
    latency: np.ndarray

    @classmethod
    def draw(cls, world: World, n: int, rng: np.random.Generator) -> "Requests":
        """`n` requests to a variant like this."""
        normal = rng.standard_normal(n)
        latency = world.mean * np.exp(world.sigma * normal - world.sigma**2 / 2)
        return cls((rng.random(n) < world.error).astype(float), latency)

    def minutes(self, length: int) -> np.ndarray:
        """For each request, in which period of so many minutes it came."""
        n = len(self.errors)
        return np.arange(n) * (MINUTES // length) // n


Rule = Callable[[Requests, Requests, World], int | None]
"""(canary, baseline, the healthy control) -> requests of the canary until it aborts."""


class Periods(NamedTuple):
    """Those that have requests: where each starts, and how many it has; shapes (periods,)."""

    of: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    @classmethod
    def among(cls, of: np.ndarray) -> "Periods":
        """From the period of every request, ascending."""
        starts = np.concatenate([[0], np.flatnonzero(np.diff(of)) + 1])
        return cls(of, starts, np.diff(starts, append=len(of)))

    def means(self, values: np.ndarray) -> np.ndarray:
        """Of each period."""
        return np.add.reduceat(values, self.starts) / self.sizes

    def quantiles(self, values: np.ndarray, q: float) -> np.ndarray:
        """As `np.quantile` of each."""
        ordered = values[np.lexsort((values, self.of))]
        at = q * (self.sizes - 1)
        low = np.floor(at).astype(int)
        below = ordered[self.starts + low]
        above = ordered[self.starts + np.minimum(low + 1, self.sizes - 1)]
        return below + (at - low) * (above - below)


# Kayenta


def _wilcoxon(x: np.ndarray, y: np.ndarray, shift: float) -> float:
    """The standardised rank sum of x - shift, with correction for ties and continuity."""
    n_x, n_y = len(x), len(y)
    ranks = rankdata(np.concatenate([x - shift, y]))
    surplus = ranks[:n_x].sum() - n_x * (n_x + 1) / 2 - n_x * n_y / 2
    _, ties = np.unique(ranks, return_counts=True)
    n = n_x + n_y
    spread = math.sqrt(
        n_x * n_y / 12 * (n + 1 - float((ties.astype(float) ** 3 - ties).sum()) / (n * (n - 1)))
    )
    return (surplus - math.copysign(0.5, surplus) * (surplus != 0)) / spread if spread else 0.0


def is_high(x: np.ndarray, y: np.ndarray, *, confidence: float = 0.98, tolerance: float = 0.25) -> bool:
    """Whether a metric of the canary, x, is classified as high against the baseline, y."""
    z = -float(special.ndtri((1 - confidence) / 2))
    if _wilcoxon(x, y, 0.0) <= z:
        return False  # the interval of the shift begins below 0
    ends = x.min() - y.max(), x.max() - y.min()

    def shift_at(level: float) -> float:
        return float(
            optimize.brentq(
                lambda shift: _wilcoxon(x, y, shift) - level, *ends, xtol=1e-4 * (ends[1] - ends[0])
            )
        )

    return shift_at(z) > tolerance * abs(shift_at(0.0))


def kayenta(canary: Requests, baseline: Requests, _: World) -> int | None:
    """Every hour, on all minutes since the start: error rate, mean latency and its 95th percentile."""
    minutes = Periods.among(canary.minutes(1))
    both = (canary, baseline)
    series = [
        [minutes.means(arm.errors) for arm in both],
        [minutes.means(arm.latency) for arm in both],
        [minutes.quantiles(arm.latency, 0.95) for arm in both],
    ]
    points = len(series[0][0])
    for hour in range(1, 25):
        seen = points * hour // 24
        if seen < 2:
            continue
        high = sum(is_high(ours[:seen], theirs[:seen]) for ours, theirs in series)
        if 100 * (1 - high / len(series)) < 75:
            return len(canary.errors) * hour // 24
    return None


# Failed checks


def _failed_checks(
    canary: Requests, length: int, *, errors: float, q: float, latency: float, limit: int
) -> int | None:
    """When so many checks have failed: more errors, or a quantile of latency above its limit.

    Periods without requests are not checked.
    """
    periods = Periods.among(canary.minutes(length))
    failed = (periods.means(canary.errors) > errors) | (periods.quantiles(canary.latency, q) > latency)
    enough = failed.cumsum() >= limit
    if not enough.any():
        return None
    last = int(enough.argmax())
    return int(periods.starts[last] + periods.sizes[last])


def _quantile(world: World, q: float) -> float:
    return world.mean * math.exp(world.sigma * float(special.ndtri(q)) - world.sigma**2 / 2)


def flagger(canary: Requests, _: Requests, control: World) -> int | None:
    """Every minute; the limit of the duration is 1.1 times the control's true 99th percentile."""
    limit = 1.1 * _quantile(control, 0.99)
    return _failed_checks(canary, 1, errors=0.01, q=0.99, latency=limit, limit=5)


def argo(canary: Requests, _: Requests, control: World) -> int | None:
    """Every five minutes; besides the success rate, the 95th percentile below 1.1 times the control's."""
    limit = 1.1 * _quantile(control, 0.95)
    return _failed_checks(canary, 5, errors=0.05, q=0.95, latency=limit, limit=4)


# Point rules


def _first(crossed: np.ndarray, window: int) -> int | None:
    return int(crossed.argmax()) + window if crossed.any() else None


def _rolling(values: np.ndarray, window: int) -> np.ndarray:
    total = np.concatenate([[0.0], values.cumsum()])
    return (total[window:] - total[:-window]) / window


def point_rules(canary: Requests, _: Requests, control: World) -> int | None:
    """Errors above 2 %, mean or 95th percentile of latency more than 10 % up, in rolling windows."""
    tail = np.empty((0, 100))
    if len(canary.latency) >= 100:
        tail = np.lib.stride_tricks.sliding_window_view(canary.latency, 100)[::10]
    found = [
        _first(_rolling(canary.errors, 500) > 0.02, 500),
        _first(_rolling(canary.latency, 200) > 1.1 * control.mean, 200),
    ]
    p95 = np.partition(tail, 94, axis=1)[:, 94] > 1.1 * _quantile(control, 0.95)
    found.append(int(p95.argmax()) * 10 + 100 if p95.any() else None)
    return min((one for one in found if one is not None), default=None)


def clairvoyant(canary: Requests, truth: World, control: World, *, alpha: float) -> int | None:
    """The test that no rule can beat: by somebody who knows control and canary exactly, but not which it is.

    The likelihood ratio of all that is observed, against 1 / alpha: on average no test that wrongly aborts at
    most alpha of the healthy is sooner (Wald & Wolfowitz 1948, for a test that never accepts).
    """

    def log_density(world: World) -> np.ndarray:
        location = math.log(world.mean) - world.sigma**2 / 2
        z = (np.log(canary.latency) - location) / world.sigma
        errors = np.where(canary.errors > 0, math.log(world.error), math.log1p(-world.error))
        return errors - z**2 / 2 - math.log(world.sigma)

    evidence = (log_density(truth) - log_density(control)).cumsum()
    return _first(evidence >= -math.log(alpha), 1)


RULES: dict[str, Rule] = {
    "Kayenta": kayenta,
    "Flagger": flagger,
    "Argo": argo,
    "point rules": point_rules,
}
