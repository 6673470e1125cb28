"""Calibration under policies that react to outcomes: error rates under drift, coverage at one look, power.

Equal arms meet a level that drifts, steps, has seasons, or is met through a ramp. A row is decided wrongly if
at any of 100 looks the sequence of the difference excludes 0.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from benchmarks.validity import (
    ALPHA,
    Parts,
    Row,
    Simulated,
    at_least,
    at_most,
    caught,
    error_limit,
    generator,
)
from stats import concurrent, mixture
from stats.concurrent import AGE_STRATA, SHARE_STRATA, ArmArrays, moments
from stats.totals import FloatArray, JointTotals

LOOKS: Final = 100
TUNED: Final = 0.05
"""Sequences are tightest at this share of all units, in effective units."""
_BLOCK: Final = 200
_CHUNK: Final = 2_000
_DRAWS: Final = 40
_SECONDS_PER_UNIT: Final = 0.1
_RAMP: Final = ((0.2, 0.01), (0.5, 0.05), (1.0, 0.25))

Flags = NDArray[np.bool_]
Outcomes = Callable[[np.random.Generator, int, FloatArray], list[FloatArray]]
"""Draws runs x units values at these levels: one array, or numerator and denominator."""


class Setting(NamedTuple):
    """A policy in surroundings: `floor` is the exploration floor of both arms together."""

    policy: str = "thompson"
    batch: int = 100
    floor: float = 0.05
    drift: str = "constant"
    units: int = 10_000
    effect: float = 0.0
    arms: int = 2

    @property
    def levels(self) -> FloatArray:
        """Return the relative rise of the level at each unit, shape (units,)."""
        t = (np.arange(self.units) + 0.5) / self.units
        match self.drift:
            case "drift" | "ramp":
                return t
            case "step":
                return np.where(t > 0.5, 0.5, 0.0)
            case "season":
                return 0.4 * (1 + np.sin(2 * np.pi * 6 * t))
            case _:
                return np.zeros(self.units)

    @property
    def delay(self) -> int:
        """How many units later an outcome is known, to the policy and to the analysis."""
        return max(self.batch, self.units // 10) if self.drift == "delay" else 0


DRIFTS: Final = ("constant", "drift", "step", "season", "delay", "ramp")


def bernoulli(rate: float) -> Outcomes:
    def draw(rng: np.random.Generator, runs: int, rise: FloatArray) -> list[FloatArray]:
        p = np.clip(rate * (1 + rise) if rate < 0.4 else rate * (0.6 + 0.8 * rise), 0, 0.98)
        return [(rng.random((runs, rise.shape[-1])) < p).astype(float)]

    return draw


def lognormal(sigma: float) -> Outcomes:
    return lambda rng, runs, rise: [np.exp(sigma * rng.standard_normal((runs, len(rise)))) * (1 + rise)]


def clicks_of_sessions(rng: np.random.Generator, runs: int, rise: FloatArray) -> list[FloatArray]:
    sessions = rng.poisson(1.5, (runs, len(rise))) + 1
    clicks = rng.binomial(sessions, np.clip(rng.beta(3, 7, sessions.shape) * (1 + rise), 0, 1))
    return [clicks.astype(float), sessions.astype(float)]


def clustered(rng: np.random.Generator, runs: int, rise: FloatArray) -> list[FloatArray]:
    """Successes of users who come back a geometric number of times, each with a rate of their own."""
    visits = np.minimum(rng.geometric(0.3, (runs, len(rise))), 30)
    return [
        rng.binomial(visits, np.clip(rng.beta(0.6, 1.4, visits.shape) * (1 + rise) * 0.6, 0, 1)).astype(float)
    ]


OUTCOMES: Final[dict[str, Outcomes]] = {
    "0.5": bernoulli(0.5),
    "0.1": bernoulli(0.1),
    "0.01": bernoulli(0.01),
    "0.002": bernoulli(0.002),
    "lognormal 1.5": lognormal(1.5),
    "lognormal 2": lognormal(2.0),
    "ratio": clicks_of_sessions,
    "clustered": clustered,
}


class Sums(NamedTuple):
    """Cumulative sums at each look, each of shape (looks, runs, strata, arms).

    Sums of 1, 1 / p, 1 / p^2, then of the values, of the values / p, and of products of values (those of the
    lower triangle).
    """

    n: FloatArray
    weight: FloatArray
    weight_squares: FloatArray
    values: Sequence[FloatArray]
    weighted: Sequence[FloatArray]
    products: Sequence[FloatArray]

    @property
    def least(self) -> FloatArray:
        """Units of the smaller arm of the first two, shape (looks, runs)."""
        return np.asarray(self.n[..., :2].sum(axis=-2).min(axis=-1))

    @property
    def weighted_pair(self) -> concurrent.Weighted:
        """The comparison of the first two arms."""
        control, treatment = (self.arm(number) for number in (0, 1))
        return concurrent.weighted(control, treatment, self.n[..., 2:].sum(axis=-1))

    def arm(self, number: int) -> ArmArrays:
        """One arm; of a ratio its linearised values."""
        value, squares, weighted = self._linear() if len(self.values) > 1 else self._plain()
        n = np.maximum(self.n, 1)
        mean, weight = value / n, self.weight / n
        columns = (
            self.n,
            mean,
            weight,
            np.maximum(squares - value * mean, 0),
            weighted - value * weight,
            np.maximum(self.weight_squares - self.weight * weight, 0),
        )
        return ArmArrays(*(column[..., number] for column in columns))

    def _plain(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        return self.values[0], self.products[0], self.weighted[0]

    def _linear(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        (x, d), (xw, dw), (xx, xd, dd) = self.values, self.weighted, self.products
        every = [column.sum(axis=(-2, -1), keepdims=True) for column in (x, d, self.n)]
        r, size = every[0] / np.maximum(every[1], 1), every[1] / np.maximum(every[2], 1)
        return (x - r * d) / size, (xx - 2 * r * xd + r**2 * dd) / size**2, (xw - r * dw) / size


class Simulation:
    """Runs of one experiment side by side. The policy learns from the first value, late by the delay."""

    def __init__(self, setting: Setting, outcomes: Outcomes, runs: int, rng: np.random.Generator) -> None:
        self.setting, self.outcomes, self.runs, self.rng = setting, outcomes, runs, rng
        self.levels = setting.levels
        self.shares = np.full((runs, setting.arms), 1 / setting.arms)
        self.values: list[FloatArray] = []
        self.base = 0
        self.late: deque[tuple[int, concurrent.IntArray, list[FloatArray]]] = deque()
        self.totals: list[FloatArray] = []

    def sums(self) -> Sums:
        """Simulate all, and return what is known at each look."""
        setting = self.setting
        looks = set(np.linspace(0, setting.units, LOOKS + 1).astype(int)[1:].tolist())
        cuts = sorted({*range(0, setting.units, setting.batch), *looks, 0})
        seen: list[list[FloatArray]] = []
        for start, end in pairwise(cuts):
            if start % setting.batch == 0 and start:
                self._arrive(start)
                self.shares = self._policy(start)
            self._assign(start, end)
            if end in looks:
                self._arrive(end)
                seen.append([total.copy() for total in self.totals])
        n, weight, weight_squares, *columns = (np.stack(column) for column in zip(*seen, strict=True))
        k = len(self.values)
        return Sums(n, weight, weight_squares, columns[:k], columns[k : 2 * k], columns[2 * k :])

    def _assign(self, start: int, end: int) -> None:
        rng, shape = self.rng, (self.runs, end - start)
        if not self.values or end > self.base + self.values[0].shape[1]:
            self.base = start
            rise = self.levels[start : start + max(_CHUNK, end - start)]
            self.values = self.outcomes(rng, self.runs, rise)
        own = [value[:, start - self.base : end - self.base] for value in self.values]
        arm = (rng.random(shape)[..., None] > self.shares.cumsum(axis=-1)[:, None, :-1]).sum(axis=-1)
        if self.setting.effect:
            p = self.setting.effect
            own = [np.maximum(own[0], (arm == 1) & (rng.random(shape) < p))]
        products = [own[a] * own[b] for a in range(len(own)) for b in range(a + 1)]
        added = []
        for number in range(self.setting.arms):
            drawn = arm == number
            w = 1 / self.shares[:, number]
            n = drawn.sum(axis=1).astype(float)
            sums = [(value * drawn).sum(axis=1) for value in own]
            squares = [(value * drawn).sum(axis=1) for value in products]
            added.append([n, n * w, n * w * w, *sums, *(one * w for one in sums), *squares])
        columns = [np.stack(column, axis=-1) for column in zip(*added, strict=True)]
        if not self.totals:
            strata = SHARE_STRATA if self.setting.arms == 2 else AGE_STRATA
            self.totals = [np.zeros((self.runs, strata, self.setting.arms)) for _ in columns]
        self.late.append((start, self._strata(start), columns))

    def _strata(self, start: int) -> concurrent.IntArray:
        if self.setting.arms > 2:
            return concurrent.strata_of_ages(np.full(self.runs, start * _SECONDS_PER_UNIT))
        return concurrent.strata_of_shares(self.shares[:, 1])

    def _arrive(self, now: int) -> None:
        """Take what is known by now into the totals."""
        runs = np.arange(self.runs)
        while self.late and self.late[0][0] <= now - 1 - self.setting.delay:
            _, stratum, columns = self.late.popleft()
            for total, column in zip(self.totals, columns, strict=True):
                total[runs, stratum] += column

    def _policy(self, start: int) -> FloatArray:
        setting, k = self.setting, len(self.values)
        n, y, squares = (self.totals[place].sum(axis=1) for place in (0, 3, 3 + 2 * k))
        units = n.sum(axis=-1)
        middle = np.where(units > 0, y.sum(axis=-1) / np.maximum(units, 1), 0.5)
        pulls = n + 2
        mean = (y + 2 * middle[:, None]) / pulls
        variance = np.maximum(squares.sum(axis=-1) / np.maximum(units, 1) - middle**2, 1e-9)
        if setting.policy == "ucb":
            bound = mean + np.sqrt(2 * np.log(np.maximum(units, 2)) * variance)[:, None] / np.sqrt(pulls)
            best = (bound == bound.max(axis=-1, keepdims=True)).astype(float)
            best /= best.sum(axis=-1, keepdims=True)
        elif setting.arms == 2:
            second = special.ndtr((mean[:, 1] - mean[:, 0]) / np.sqrt(variance * (1 / pulls).sum(axis=-1)))
            best = np.stack([1 - second, second], axis=-1)
        else:
            noise = self.rng.standard_normal((_DRAWS, *mean.shape))
            draws = mean + np.sqrt(variance)[:, None] / np.sqrt(pulls) * noise
            best = (draws == draws.max(axis=-1, keepdims=True)).mean(axis=0)
        shares = (1 - setting.floor) * best + setting.floor / setting.arms
        if setting.drift == "ramp":
            cap = next(cap for until, cap in _RAMP if start < until * setting.units)
            rest = np.minimum(shares[:, 1:], cap / (setting.arms - 1))
            shares = np.concatenate([1 - rest.sum(axis=-1, keepdims=True), rest], axis=-1)
        return np.asarray(shares)


class Figures(NamedTuple):
    """Rates over runs: ever decided or missed, covered at the end, and the same with a planted bug."""

    decided: Simulated
    covered: Simulated
    naive: Simulated
    effect_missed: Simulated


def figures(
    setting: Setting, outcomes: Outcomes, runs: int, seed: int, *, events: bool = False, truth: float = 0.0
) -> Figures:
    """Measure a setting. `events`: values are 0 or 1, so that few of them are judged exactly."""
    rng = generator(seed)
    parts = []
    for first in range(0, runs, _BLOCK):
        sums = Simulation(setting, outcomes, min(_BLOCK, runs - first), rng).sums()
        parts.append(_figures(sums, setting, events=events, truth=truth))
    decided, covered, known, naive, missed = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Figures(
        Simulated.share(decided.mean(), runs),
        Simulated.share(covered[known].mean(), int(known.sum())),
        Simulated.share(naive.mean(), runs),
        Simulated.share(missed.mean(), runs),
    )


def _figures(sums: Sums, setting: Setting, *, events: bool, truth: float) -> tuple[Flags, ...]:
    with np.errstate(all="ignore"):
        found = sums.weighted_pair
        sequence, once = moments(found), moments(found, stabilised=True)
        enough = sums.least >= concurrent.ARM_UNITS_MIN
        rho = mixture.tuned(TUNED * setting.units, alpha=ALPHA)
        variance = sequence.variance * sequence.information**2
        few = variance < concurrent.EVENTS_MIN if events else np.zeros_like(enough)

        def excluded(null: float) -> Flags:
            distance = sequence.difference - null
            score = distance / np.sqrt(sequence.variance) * np.sqrt(sequence.information)
            crossed = mixture.log_mixture(score, sequence.information, rho=rho) > -np.log(ALPHA)
            asymptotic = crossed & enough & ~few
            return np.asarray(asymptotic.any(axis=0) | _exact(sums, few, setting, null))

        z = (once.difference - truth) / np.sqrt(once.variance)
        known = enough[-1]
        return (
            excluded(0.0),
            np.asarray(np.abs(z[-1]) < -special.ndtri(ALPHA / 2)),
            known,
            _naive(sums, rho, enough),
            excluded(truth),
        )


def _naive(sums: Sums, rho: float, enough: Flags) -> Flags:
    """The planted fault: averages of the arms over all time, as if nothing had drifted."""
    n, value = (column[..., :2].sum(axis=-2) for column in (sums.n, sums.values[0]))
    squares = sums.products[0][..., :2].sum(axis=-2)
    mean = value / n
    variance = ((squares / n - mean**2) / n).sum(axis=-1)
    time = n.prod(axis=-1) / n.sum(axis=-1)
    score = (mean[..., 1] - mean[..., 0]) / np.sqrt(variance) * np.sqrt(time)
    return np.asarray(((mixture.log_mixture(score, time, rho=rho) > -np.log(ALPHA)) & enough).any(axis=0))


def _exact(sums: Sums, few: Flags, setting: Setting, null: float) -> Flags:
    """Return the runs in which the exact sequence excludes the null at a look with few events."""
    found = np.zeros(few.shape[1], bool)
    if not few.any():
        return found
    pair = sums.weighted_pair
    score = np.abs((pair.h * (pair.treatment - pair.control)).sum(axis=-1) - null * (pair.h * pair.n).sum(-1))
    deviation = (pair.h**2 * (pair.control_squares + pair.treatment_squares)).sum(axis=-1)
    # The boundary is beyond that of a normal sum with a known drift: what is nearer is not worth a search.
    near = few & (score**2 > 2 * deviation * np.log(2 / ALPHA))
    arms = [sums.arm(number) for number in (0, 1)]
    for look, run in np.argwhere(near).tolist():
        if found[run]:
            continue
        strata = [
            concurrent.ConcurrentArms(
                _totals(arms[0], (look, run, stratum)), _totals(arms[1], (look, run, stratum))
            )
            for stratum in np.flatnonzero(sums.n[look, run].sum(axis=-1)).tolist()
        ]
        interval = concurrent.event_sequence(strata, alpha=ALPHA, tuned_to=TUNED * setting.units)
        found[run] = not interval.lower <= null <= interval.upper
    return found


def _totals(arm: ArmArrays, place: tuple[int, int, int]) -> JointTotals:
    n, mean, weight, m2, weighted, weight_m2 = (
        float(getattr(arm, name)[place]) for name in ArmArrays.__struct_fields__
    )
    return JointTotals(int(n), (mean, weight), (m2, weighted, weight_m2)) if n else JointTotals.none(2)


def settings() -> Iterator[tuple[str, Setting, str]]:
    """Every drift with every outcome; policies, batches and floors take turns, so that all pairs occur."""
    policies, batches, floors = ("thompson", "ucb"), (100, 1, 100, 10_000), (0.01, 0.05, 0.2)
    for number, (drift, outcome) in enumerate(product(DRIFTS, OUTCOMES)):
        row, column = divmod(number, len(OUTCOMES))
        policy, floor = policies[(row + column) % 2], floors[(row + 2 * column + column // 3) % 3]
        batch = batches[(row + column // 2) % 4]
        units = {1: 2_000, 100: 10_000, 10_000: 100_000}[batch]
        setting = Setting(policy, batch, floor, drift, units)
        yield f"{drift}, {outcome}, {policy} by {batch:,}, floor {floor:g}", setting, outcome


def error_rows(*, full: bool) -> Iterator[Row]:
    for seed, (name, setting, outcome) in enumerate(settings(), start=2_300):
        runs = {1: 200, 100: 1_000, 10_000: 200}[setting.batch] if full else 60
        events = outcome[0] == "0"
        found = figures(setting, OUTCOMES[outcome], runs, seed, events=events)
        yield at_most(f"V23 ever decided, {name}", found.decided, error_limit(runs, ALPHA))
        yield at_least(f"V23 covered at one look, {name}", found.covered, 1 - error_limit(runs, ALPHA))


def several_arms_rows(*, full: bool) -> Iterator[Row]:
    runs = 400 if full else 60
    for seed, (drift, outcome) in enumerate(
        product(("constant", "drift", "step"), ("0.1", "lognormal 2")), 2_380
    ):
        setting = Setting("thompson", 100, 0.1, drift, arms=3)
        found = figures(setting, OUTCOMES[outcome], runs, seed)
        name = f"three arms, {drift}, {outcome}"
        yield at_most(f"V23 ever decided, {name}", found.decided, error_limit(runs, ALPHA))


def planted_rows(*, full: bool) -> Iterator[Row]:
    runs = 400 if full else 60
    setting = Setting(drift="drift")
    found = figures(setting, bernoulli(0.3), runs, 2_390, events=True)
    yield at_most("V23 ever decided, 0.3 to 0.6", found.decided, error_limit(runs, ALPHA))
    yield caught("V23 averages over all time, 0.3 to 0.6", found.naive, error_limit(runs, ALPHA))


def power_rows(*, full: bool) -> Iterator[Row]:
    """0.30 against 0.36: of those who would fail a share of 0.06 / 0.7 succeeds."""
    runs = 1_000 if full else 60
    for seed, (floor, least) in enumerate(((0.05, 0.45), (0.2, 0.85)), start=2_395):
        setting = Setting(floor=floor, effect=0.06 / 0.7)
        found = figures(setting, bernoulli(0.3), runs, seed, events=True, truth=0.06)
        name = f"0.30 against 0.36, floor {floor:g}"
        yield at_least(f"V24 decided, {name}", found.decided, least if full else least - 0.2)
        yield at_most(f"V24 effect ever missed, {name}", found.effect_missed, error_limit(runs, ALPHA))
        yield at_least(f"V24 covered at one look, {name}", found.covered, 1 - error_limit(runs, ALPHA))


PARTS: Parts = {
    "V23: equal arms under adaptive policies, by drift": error_rows,
    "V23: equal arms, three of them": several_arms_rows,
    "V23: what drift does to averages": planted_rows,
    "V24: power under Thompson sampling": power_rows,
}
