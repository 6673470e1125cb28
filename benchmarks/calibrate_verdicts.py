"""Calibration of false verdicts: rare events in small arms, segments, and plans read all the time.

Each simulator takes the rule under test, so that a wrong one can be planted.
"""

from collections.abc import Callable, Iterator

import numpy as np

from app.analysis.evidence.planned import look_fractions
from benchmarks.validity import ALPHA, Parts, Row, Simulated, at_most, error_limit, generator
from stats import heterogeneity, sequences, sequential_counts
from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.group_sequential import GroupSequentialPlan, Spending
from stats.sequential_counts import rare
from stats.totals import MeanTotals, ProportionTotals

Rule = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Whether each look decides, from units and events of control and treatment, shape (runs, looks)."""


def by_sequence(n_c: np.ndarray, x_c: np.ndarray, n_t: np.ndarray, x_t: np.ndarray) -> np.ndarray:
    """The planted bug: a normal approximation of whatever has come, from 100 units per arm on."""
    mean_c, mean_t = x_c / n_c, x_t / n_t
    variance_c, variance_t = sequences.shrunk_variances(n_c, x_c * (1 - mean_c), n_t, x_t * (1 - mean_t))
    time = n_c * (n_t / (n_c + n_t))
    reach = sequences.radius(variance_c / n_c + variance_t / n_t, time, alpha=ALPHA, tuned_to=2_500)
    return (np.abs(mean_t - mean_c) > reach) & (np.minimum(n_c, n_t) >= sequences.ARM_UNITS_MIN)


def by_readout(n_c: np.ndarray, x_c: np.ndarray, n_t: np.ndarray, x_t: np.ndarray) -> np.ndarray:
    """The readout's rule: exact where events are rare, the sequence of means elsewhere."""
    n = n_c + n_t
    log_evidence = sequential_counts.log_ratio_mixture(
        x_c[..., None],
        x_t[..., None],
        np.clip(n_t / n, 1e-9, 1 - 1e-9)[..., None],
        ratio=1.0,
        expected_ratio=2.0,
        alternative="two-sided",
    )
    few = rare(n_c, n_t, (x_c + x_t) / n)
    return np.where(few, log_evidence >= -np.log(ALPHA), by_sequence(n_c, x_c, n_t, x_t))


def rare_verdicts(
    rate: float, share: float, *, units: int, runs: int, seed: int, rule: Rule = by_readout
) -> Simulated:
    """Share of A/A runs with a verdict at any of 100 looks; `share` of the units is in the treatment."""
    rng, step = generator(seed), units // 100
    treated = rng.binomial(step, share, (runs, 100))
    x_t, x_c = (rng.binomial(arm, rate).cumsum(axis=1) for arm in (treated, step - treated))
    n_t = np.maximum(treated.cumsum(axis=1), 1)
    n_c = step * np.arange(1, 101) - n_t
    with np.errstate(divide="ignore", invalid="ignore"):
        decided = rule(n_c, x_c, n_t, x_t).any(axis=1)
    return Simulated.share(decided.mean(), runs)


Effect = Callable[[MeanTotals, MeanTotals], Estimate | None]


def with_null_variance(treatment: MeanTotals, control: MeanTotals) -> Estimate | None:
    """The readout's effect of a segment: pooled variance, and none below 30 units."""
    if min(treatment.n, control.n) < heterogeneity.UNITS_MIN:
        return None
    freedom = treatment.n + control.n - 2
    variance = (treatment.m2 + control.m2) / freedom * (1 / treatment.n + 1 / control.n)
    return Estimate(treatment.mean - control.mean, variance**0.5, freedom)


def with_null_rate(treatment: MeanTotals, control: MeanTotals) -> Estimate | None:
    """The readout's effect of a segment on a proportion: pooled rate, and none where events are rare."""
    n = treatment.n + control.n
    rate = (treatment.n * treatment.mean + control.n * control.mean) / n
    if rare(control.n, treatment.n, rate):
        return None
    variance = rate * (1 - rate) * (1 / treatment.n + 1 / control.n)
    return Estimate(treatment.mean - control.mean, variance**0.5)


def with_own_variances(treatment: MeanTotals, control: MeanTotals) -> Estimate | None:
    """The planted bug: each cell's variance, taken as known."""
    variance = treatment.variance / treatment.n + control.variance / control.n
    return Estimate(treatment.mean - control.mean, variance**0.5) if variance else None


def interactions(
    effect: Effect, *, rate: float | None, sizes: tuple[int, int], runs: int, seed: int
) -> Simulated:
    """Share of A/A runs in which ten segments seem to differ at 5 %; normal values without a `rate`."""
    rng, found = generator(seed), 0
    for _ in range(runs):
        effects = []
        for _ in range(10):
            arms = []
            for n in rng.choice(sizes, 2).tolist():
                if rate is None:
                    arms.append(MeanTotals.from_observations(rng.normal(size=n)))
                else:
                    arms.append(ProportionTotals(n, int(rng.binomial(n, rate))).moments)
            if (one := effect(arms[0], arms[1])) is not None:
                effects.append(one)
        found += len(effects) > 1 and heterogeneity.interaction_test(effects).p_value < ALPHA
    return Simulated.share(found / runs, runs)


FIFTHS = (0.2, 0.4, 0.6, 0.8, 1.0)


def readings(spending: Spending, *, runs: int, seed: int, one_boundary: bool = False) -> Simulated:
    """Share of A/A runs with a verdict, read after each thousandth of the units.

    `one_boundary` plants the boundary of the planned look for every reading near it.
    """
    plan, steps = GroupSequentialPlan(ALPHA, spending), 1_000
    planned = dict(zip(FIFTHS, plan.boundaries(FIFTHS), strict=True))
    reads, bounds = [], []
    for step in range(1, steps + 21):
        now = step / steps
        try:
            fractions = look_fractions(FIFTHS, now)
        except InsufficientData:
            continue
        reads.append(step)
        nearest = min(FIFTHS, key=lambda look, now=now: abs(look - now))
        bounds.append(planned[nearest] if one_boundary else plan.boundaries(fractions)[-1])
    at = np.array(reads)
    rng, decided = generator(seed), 0
    for _ in range(0, runs, 500):
        paths = rng.standard_normal((500, steps + 20)).cumsum(axis=1)[:, at - 1]
        decided += int((np.abs(paths) / np.sqrt(at) >= np.array(bounds)).any(axis=1).sum())
    return Simulated.share(decided / runs, runs)


def rare_rows(*, full: bool) -> Iterator[Row]:
    runs = 1_000 if full else 200
    seed = 300
    for rate in (0.0001, 0.0005, 0.001, 0.01):
        for share in (0.05, 0.01, 0.5):
            for units in (100_000, 1_000_000) if full else (100_000,):
                seed += 1
                found = rare_verdicts(rate, share, units=units, runs=runs, seed=seed)
                name = f"V25 any verdict, rate {rate:g}, {share:.0%} treated, {units:,} units"
                yield at_most(name, found, error_limit(runs, ALPHA))


def segment_rows(*, full: bool) -> Iterator[Row]:
    runs = 1_000 if full else 200
    limit = error_limit(runs, ALPHA)
    found = interactions(with_null_rate, rate=0.02, sizes=(50, 1_000), runs=runs, seed=340)
    yield at_most("V26 interaction, rate .02, cells of 50 or 1,000", found, limit)
    found = interactions(with_null_rate, rate=0.2, sizes=(50, 1_000), runs=runs, seed=341)
    yield at_most("V26 interaction, rate .2, cells of 50 or 1,000", found, limit)
    found = interactions(with_null_variance, rate=None, sizes=(2, 300), runs=runs, seed=342)
    yield at_most("V26 interaction, normal, cells of 2 or 300", found, limit)
    found = interactions(with_null_variance, rate=None, sizes=(30, 300), runs=runs, seed=343)
    yield at_most("V26 interaction, normal, cells of 30 or 300", found, limit)


def reading_rows(*, full: bool) -> Iterator[Row]:
    runs = 10_000 if full else 1_000
    spendings: tuple[Spending, Spending] = ("obrien-fleming", "pocock")
    for at, spending in enumerate(spendings):
        found = readings(spending, runs=runs, seed=350 + at)
        limit = 0.066 if full else error_limit(runs, 0.06)
        yield at_most(f"{spending} K=5, read after each thousandth of the units", found, limit)


PARTS: Parts = {
    "V25: rare events in a small arm": rare_rows,
    "V26: segments": segment_rows,
    "group sequential plans read all the time": reading_rows,
}
