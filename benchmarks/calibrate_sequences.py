"""Calibration of confidence sequences under a fixed split: whether they ever miss, and how wide they are.

With `full=True` a part has the sizes of the validity table; `full=False` is the same at a tenth.
`benchmarks/calibrate.py` prints the table. Streams are drawn here; the methods under test see sums and counts
only. Every simulator is seeded and vectorised, calls the elementwise functions on which the records of
`stats` are built, and takes the method under test, so that a wrong one can be planted.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from benchmarks.validity import (
    ALPHA,
    Parts,
    Row,
    Simulated,
    at_least,
    at_most,
    error_limit,
    generator,
    within,
)
from stats import bounded, means, mixture, sequences
from stats.interval import Interval
from stats.totals import MeanTotals, ProportionTotals

# --- Streams ---

MEANS = {"normal": 0.0, "lognormal": float(np.exp(1.125)), "t5": 0.0}


def stream_mean(stream: str) -> float:
    return MEANS[stream] if stream in MEANS else float(stream)


def draw(stream: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """`n` observations: "normal", "lognormal" (sigma 1.5), "t5", or Bernoulli if it is a number."""
    match stream:
        case "normal":
            return rng.standard_normal(n)
        case "lognormal":
            return np.exp(1.5 * rng.standard_normal(n))
        case "t5":
            return rng.standard_t(5, n)
        case _:
            return (rng.random(n) < float(stream)).astype(float)


# --- Two arms, looked at after every unit ---

Radius = Callable[..., np.ndarray]


def product_radius(n_c, m2_c, n_t, m2_t, *, tuned_to: float) -> np.ndarray:
    """That of `difference_sequence`: infinite before the burn-in."""
    v_c, v_t = sequences.shrunk_variances(n_c, m2_c, n_t, m2_t)
    time = n_c * n_t / (n_c + n_t)
    distance = sequences.radius(v_c / n_c + v_t / n_t, time, alpha=ALPHA, tuned_to=tuned_to)
    return np.where(np.minimum(n_c, n_t) >= sequences.ARM_UNITS_MIN, distance, np.inf)


def plug_in_radius(n_c, m2_c, n_t, m2_t, *, tuned_to: float) -> np.ndarray:
    """The planted bug: the arms' own variances, from the second unit on."""
    variance = m2_c / (n_c - 1) / n_c + m2_t / (n_t - 1) / n_t
    return sequences.radius(variance, n_c * n_t / (n_c + n_t), alpha=ALPHA, tuned_to=tuned_to)


def two_arm_misses(
    stream: str,
    *,
    share: float,
    units: int,
    runs: int,
    tuned_to: float,
    seed: int,
    radius: Radius = product_radius,
    treatment_stream: str | None = None,
    adjusted: bool = False,
) -> float:
    """Share of runs in which the sequence ever excludes the true difference, looking after each unit.

    Units are assigned independently. `adjusted`: a covariate with correlation 0.7 is regressed out, as CUPED
    does.
    """
    rng = generator(seed)
    other = treatment_stream or stream
    truth = stream_mean(other) - stream_mean(stream)
    misses = 0
    for _ in range(runs):
        treated = rng.random(units) < share
        x = draw(stream, rng, units)
        if other != stream:
            x = np.where(treated, draw(other, rng, units), x)
        covariate = 0.7 * x + 0.714 * x.std() * rng.standard_normal(units) if adjusted else None
        misses += _ever_misses(x, covariate, treated, truth, radius, tuned_to)
    return misses / runs


# Blocks of units whose arrays stay in the processor's cache: several times faster than all at once.
_BLOCK = 4_096


def _ever_misses(x, covariate, treated, truth: float, radius: Radius, tuned_to: float) -> bool:
    """Block by block, with the sums so far; the first miss ends it."""
    before = np.zeros((2, 3 if covariate is None else 6, 1))
    for start in range(0, len(x), _BLOCK):
        block = slice(start, start + _BLOCK)
        columns = [np.ones_like(x[block]), x[block], x[block] ** 2]
        if covariate is not None:
            columns += [covariate[block], x[block] * covariate[block], covariate[block] ** 2]
        stacked = np.array(columns)
        in_treatment = treated[block]
        sums = np.array([np.cumsum(stacked * arm, axis=1) for arm in (~in_treatment, in_treatment)]) + before
        before = sums[..., -1:]
        if _misses(*sums, truth=truth, radius=radius, tuned_to=tuned_to):
            return True
    return False


def _misses(
    control: Sequence[np.ndarray],
    treatment: Sequence[np.ndarray],
    *,
    truth: float,
    radius: Radius,
    tuned_to: float,
) -> bool:
    """Whether the sequence excludes the truth at any unit of a block, from both arms' sums up to each."""
    (n_c, *_), (n_t, *_) = control, treatment
    seen = np.minimum(n_c, n_t) >= 2
    with np.errstate(all="ignore"):
        difference = treatment[1] / n_t - control[1] / n_c
        m2_c, m2_t = (_squared_deviations(arm) for arm in (control, treatment))
        if len(control) > 3:
            cross_c, cross_t = (arm[4] - arm[1] * arm[3] / arm[0] for arm in (control, treatment))
            square_c, square_t = (arm[5] - arm[3] ** 2 / arm[0] for arm in (control, treatment))
            slope = (cross_c + cross_t) / (square_c + square_t)
            difference = difference - slope * (treatment[3] / n_t - control[3] / n_c)
            m2_c = m2_c - 2 * slope * cross_c + slope**2 * square_c
            m2_t = m2_t - 2 * slope * cross_t + slope**2 * square_t
        distance = radius(n_c, np.maximum(m2_c, 0.0), n_t, np.maximum(m2_t, 0.0), tuned_to=tuned_to)
        return bool((seen & (np.abs(difference - truth) > distance)).any())


def _squared_deviations(arm: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of squared deviations from (n, sum, sum of squares, ...)."""
    return arm[2] - arm[1] ** 2 / arm[0]


# --- Two equal arms, looked at after every pair ---

Multiplier = Callable[..., np.ndarray]
"""Of the standard error of a difference, at each number of pairs."""


def sequence_multiplier(pairs: np.ndarray, *, tuned_to: float) -> np.ndarray:
    """That of `difference_sequence`, infinite before the burn-in; a pair is half an effective unit."""
    distance = sequences.radius(1.0, pairs / 2, alpha=ALPHA, tuned_to=tuned_to)
    return np.where(pairs >= sequences.ARM_UNITS_MIN, distance, np.inf)


def fixed_multiplier(pairs: np.ndarray, *, tuned_to: float) -> np.ndarray:
    """The planted bug: the fixed-horizon interval, looked at all the time after 100 units."""
    del tuned_to
    return np.where(pairs >= 100, 1.96, np.inf)


def pair_misses(
    stream: str,
    *,
    pairs: int,
    runs: int,
    tunings: Sequence[float],
    seed: int,
    multiplier: Multiplier = sequence_multiplier,
) -> list[float]:
    """Shares of runs in which the sequences ever tell two equal arms apart, looking after each pair.

    One share for each number of effective units that a sequence is tuned to, on the same streams.
    """
    rng, hits = generator(seed), np.zeros(len(tunings))
    n = np.arange(1, pairs + 1, dtype=float)
    factors = np.array([multiplier(n, tuned_to=tuned_to) for tuned_to in tunings])
    blocks = [slice(start, start + _BLOCK) for start in range(0, pairs, _BLOCK)]
    for _ in range(runs):
        before, missed = np.zeros((2, 2, 1)), np.zeros(len(tunings), dtype=bool)
        for block in blocks:
            errors, before = _errors_after_pairs(stream, rng, n[block], before)
            missed |= (errors > factors[:, block]).any(axis=1)
        hits += missed
    return (hits / runs).tolist()


def _errors_after_pairs(
    stream: str, rng: np.random.Generator, n: np.ndarray, before: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distance from no difference in standard errors after each of these pairs, and the arms' sums."""
    x = draw(stream, rng, 2 * n.size).reshape(2, n.size)
    sums = np.cumsum(np.stack([x, x * x], axis=1), axis=2) + before
    (s_c, q_c), (s_t, q_t) = sums
    # Where there is no spread yet, the result is not a number, which is above no limit.
    with np.errstate(all="ignore"):
        v_c, v_t = sequences.shrunk_variances(n, q_c - s_c * s_c / n, n, q_t - s_t * s_t / n)
        return np.abs(s_t - s_c) / np.sqrt((v_c + v_t) * n), sums[..., -1:]


# --- One arm ---


def mean_misses(
    stream: str, *, units: int, runs: int, tuned_to: float, seed: int, start: int | None = None
) -> float:
    """Share of runs in which `mean_sequence` ever excludes the mean; `start` plants an earlier first look."""
    rng = generator(seed)
    first = sequences.MEAN_UNITS_MIN if start is None else start
    n = np.arange(1, units + 1, dtype=float)[first - 1 :]
    k = sequences.radius(1.0, n, alpha=ALPHA, tuned_to=tuned_to)
    truth, misses = stream_mean(stream), 0
    for _ in range(runs):
        x = draw(stream, rng, units)
        mean = np.cumsum(x)[first - 1 :] / n
        variance = (np.cumsum(x * x)[first - 1 :] / n - mean**2) * n / (n - 1)
        raised = sequences.raised_variance(variance, n) if start is None else variance
        misses += bool((np.abs(mean - truth) > k * np.sqrt(raised / n)).any())
    return misses / runs


Evidence = Callable[..., np.ndarray]
"""Log evidence against a rate after so many successes of so many units."""


def likelihood_at_its_maximum(successes, n, p: float, *, weight: float) -> np.ndarray:
    """The planted bug: the likelihood of the rate that fits best, which is chosen by the same data."""
    del weight
    found = successes / n
    return special.xlogy(successes, found / p) + special.xlogy(n - successes, (1 - found) / (1 - p))


def bounded_misses(
    p: float,
    *,
    units: int,
    runs: int,
    tuned_to: float,
    seed: int,
    evidence: Evidence = bounded.log_beta_mixture,
) -> float:
    """Share of runs in which `bounded_sequence` of a Bernoulli ever excludes p, from the first unit on.

    The sequence excludes p exactly where the evidence against p reaches 1 / alpha.
    """
    rng = generator(seed)
    weight = mixture.tuned(tuned_to, alpha=ALPHA) - 1
    n = np.arange(1, units + 1, dtype=float)
    misses = 0
    for _ in range(runs):
        successes = np.cumsum(rng.random(units) < p)
        misses += bool((evidence(successes, n, p, weight=weight) >= -np.log(ALPHA)).any())
    return misses / runs


class BoundedMisses(NamedTuple):
    """Shares of runs in which each sequence ever excluded the mean; `fixed` is the planted bug."""

    bernstein: float
    fixed: float


def batched_misses(*, batches: int, runs: int, seed: int) -> BoundedMisses:
    """At any of `batches` looks, each after 50 more values from beta(0.3, 2.7), whose mean is 0.1."""
    rng = generator(seed)
    missed = np.zeros((runs, 2), dtype=bool)
    for run in range(runs):
        sums, total = bounded.BernsteinSums(), MeanTotals()
        for _ in range(batches):
            x = rng.beta(0.3, 2.7, 50)
            batch = MeanTotals.from_observations(x)
            sums, total = sums.after(batch), total + batch
            found = (
                sums.interval(alpha=ALPHA, tuned_to=1_000),
                means.mean(total).interval(alpha=ALPHA),
            )
            missed[run] |= [not interval.lower <= 0.1 <= interval.upper for interval in found]
    return BoundedMisses(*missed.mean(axis=0).tolist())


# --- Width ---


def relative_width(*, units: int, tuned_to: float) -> float:
    """Width of the sequence of a difference over that of the fixed interval, two arms of `units` each."""
    arm = MeanTotals(units, 0.0, units - 1.0)
    sequence = sequences.difference_sequence(
        sequences.Contrast.of((arm, arm)), alpha=ALPHA, tuned_to=tuned_to
    )
    return _width(sequence) / _width(means.mean_difference(arm, arm).interval(alpha=ALPHA))


def _width(interval: Interval) -> float:
    return interval.upper - interval.lower


# --- The table ---


STREAMS = ("normal", "0.5", "0.05", "0.005", "lognormal", "t5")


def pair_rows(*, full: bool) -> Iterator[Row]:
    runs, pairs = (2_000, 100_000) if full else (200, 10_000)
    tunings = (1_000, 10_000)
    for seed, stream in enumerate(STREAMS):
        measured = pair_misses(stream, pairs=pairs, runs=runs, tunings=tunings, seed=seed)
        for tuned_to, share in zip(tunings, measured, strict=True):
            name = f"V1 difference, {stream}, after every pair, tuned to {tuned_to:,}"
            yield at_most(name, Simulated.share(share, runs), error_limit(runs, ALPHA))


def uneven_rows(*, full: bool) -> Iterator[Row]:
    runs, units = (2_000, 20_000) if full else (200, 10_000)
    limit = error_limit(runs, ALPHA)
    for seed, (stream, share) in enumerate(itertools.product(STREAMS, (0.05, 0.95)), start=50):
        measured = two_arm_misses(stream, share=share, units=units, runs=runs, tuned_to=1_000, seed=seed)
        yield at_most(f"V8 difference, {stream}, share {share}", Simulated.share(measured, runs), limit)
    cases = {
        "with CUPED, normal": {"stream": "normal", "adjusted": True},
        "with CUPED, lognormal": {"stream": "lognormal", "adjusted": True},
        "0.005 against 0.01": {"stream": "0.005", "treatment_stream": "0.01"},
    }
    for seed, (name, case) in enumerate(cases.items(), start=100):
        measured = two_arm_misses(**case, share=0.05, units=units, runs=runs, tuned_to=1_000, seed=seed)
        yield at_most(f"V8 difference {name}, share 0.05", Simulated.share(measured, runs), limit)


def one_arm_rows(*, full: bool) -> Iterator[Row]:
    runs = 2_000 if full else 200
    limit = error_limit(runs, ALPHA)
    for seed, stream in enumerate(STREAMS):
        measured = mean_misses(stream, units=10_000, runs=runs, tuned_to=5_000, seed=120 + seed)
        yield at_most(f"V8 mean, {stream}", Simulated.share(measured, runs), limit)
    for seed, p in enumerate((0.5, 0.05, 0.005)):
        measured = bounded_misses(p, units=10_000, runs=runs, tuned_to=1_000, seed=130 + seed)
        yield at_most(f"V8 exact sequence, {p}, from the first unit", Simulated.share(measured, runs), limit)
    found = batched_misses(batches=20, runs=runs, seed=140)
    yield at_most("V8 empirical Bernstein", Simulated.share(found.bernstein, runs), limit)


def width_rows(*, full: bool) -> Iterator[Row]:
    del full  # Computed, not simulated.
    width = relative_width(units=5_000, tuned_to=sequences.effective_units(5_000, 5_000))
    yield within("V8 width where it is tuned to, over that of the fixed interval", width, 1.50, 1.56)
    for successes, n in ((0, 1), (1, 1), (1, 2)):
        found = bounded.bounded_sequence(ProportionTotals(n, successes), alpha=ALPHA, tuned_to=1_000)
        yield at_least(f"V9 width of the exact sequence, {successes} of {n}", _width(found), 1)


PARTS: Parts = {
    "V1: two equal arms, after every pair": pair_rows,
    "V8: two arms, 95/5 and adjusted": uneven_rows,
    "V8: one arm": one_arm_rows,
    "V8, V9: widths": width_rows,
}
