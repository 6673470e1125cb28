"""Calibration of the sequential half of `stats`: error rates and power by simulation, each with its gate.

With `full=True` a part has the sizes of the validity table; `full=False` is the same at a tenth.
`benchmarks/calibrate.py` prints the table. Streams are drawn here; the methods under test see sums and counts
only. Every simulator is seeded and vectorised, and calls the elementwise functions on which the records of
`stats` are built.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import special

from benchmarks.validity import (
    ALPHA,
    Parts,
    Row,
    around,
    at_least,
    at_most,
    error_limit,
    generator,
    within,
)
from stats import bounded, mixture, sequences, sequential_counts, sprt
from stats.eprocess import AlwaysValid, EValue
from stats.group_sequential import GroupSequentialPlan, Spending
from stats.totals import MeanTotals, ProportionTotals
from stats.yeast import Yeast

ERRORS = sprt.WaldLimits(0.05, 0.20)

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


def fixed_radius(n_c, m2_c, n_t, m2_t, *, tuned_to: float) -> np.ndarray:
    """The other planted bug: the fixed-horizon interval, looked at all the time after 100 units."""
    variance = m2_c / (n_c - 1) / n_c + m2_t / (n_t - 1) / n_t
    return np.where(np.minimum(n_c, n_t) >= min(100, tuned_to), 1.96 * np.sqrt(variance), np.inf)


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
    control: np.ndarray, treatment: np.ndarray, *, truth: float, radius: Radius, tuned_to: float
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


def _squared_deviations(arm: np.ndarray) -> np.ndarray:
    """The sum of squared deviations from (n, sum, sum of squares, ...)."""
    return arm[2] - arm[1] ** 2 / arm[0]


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


def bounded_misses(
    p: float, *, units: int, runs: int, tuned_to: float, seed: int, alpha: float = ALPHA
) -> float:
    """Share of runs in which `bounded_sequence` of a Bernoulli ever excludes p, from the first unit on.

    The sequence excludes p exactly where the evidence against p reaches 1 / alpha.
    """
    rng = generator(seed)
    weight = mixture.tuned(tuned_to, alpha=alpha) - 1
    n = np.arange(1, units + 1, dtype=float)
    misses = 0
    for _ in range(runs):
        successes = np.cumsum(rng.random(units) < p)
        evidence = bounded.log_beta_mixture(successes, n, p, weight=weight)
        misses += bool((evidence >= -np.log(alpha)).any())
    return misses / runs


def bernstein_misses(*, batches: int, runs: int, seed: int) -> tuple[float, float]:
    """Misses of the Bernstein and the betting sequence at any of `batches` looks, 50 beta(0.3, 2.7) each."""
    rng = generator(seed)
    bernstein = betting = 0
    for _ in range(runs):
        sums, capital, missed = bounded.BernsteinSums(), bounded.HedgedCapital.start(200), [False, False]
        for _ in range(batches):
            x = rng.beta(0.3, 2.7, 50)
            sums = sums.after(MeanTotals(50, float(x.mean()), float(((x - x.mean()) ** 2).sum())))
            capital = capital.after(x, alpha=ALPHA)
            found = (sums.interval(alpha=ALPHA, tuned_to=1_000), capital.interval(alpha=ALPHA))
            missed = [
                miss or not interval.lower <= 0.1 <= interval.upper
                for miss, interval in zip(missed, found, strict=True)
            ]
        bernstein, betting = bernstein + missed[0], betting + missed[1]
    return bernstein / runs, betting / runs


# --- Methods with a horizon, on Brownian motion ---


class Performance(NamedTuple):
    """Rejections, and mean time until the end as a share of the horizon."""

    power: float
    expected: float


def _first(rejected: np.ndarray) -> Performance:
    any_look = rejected.any(axis=1)
    when = np.where(any_look, rejected.argmax(axis=1) + 1, rejected.shape[1])
    return Performance(float(any_look.mean()), float(when.mean()) / rejected.shape[1])


def horizon_methods(drift: float, *, runs: int, seed: int, steps: int = 10_000) -> dict[str, Performance]:
    """All methods on the same paths of `steps` observations, whose Z has mean `drift` at the end."""
    rng = generator(seed)
    n = np.arange(1, steps + 1, dtype=float)
    plans: dict[str, GroupSequentialPlan] = {
        "GST O'Brien-Fleming": GroupSequentialPlan(ALPHA, "obrien-fleming"),
        "GST Pocock": GroupSequentialPlan(ALPHA, "pocock"),
    }
    looks = {k: [(i + 1) / k for i in range(k)] for k in (5, 10, 20)}
    bounds = {(name, k): np.array(plan.boundaries(looks[k])) for name, plan in plans.items() for k in looks}
    always, early = (sequences.radius(1 / n, n, alpha=ALPHA, tuned_to=at) * n for at in (steps, steps / 10))
    twenty = steps * np.arange(1, 21) // 20 - 1
    tau = (1.96 + 0.8416) / np.sqrt(steps)
    rejected: dict[str, list[np.ndarray]] = {}
    for _ in range(0, runs, 100):
        s = np.cumsum(rng.standard_normal((100, steps)) + drift / np.sqrt(steps), axis=1)
        z = np.abs(s) / np.sqrt(n)
        found = {
            "YEAST": np.abs(s) >= Yeast(ALPHA).boundary * np.sqrt(steps),
            "YEAST at 20 looks": (np.abs(s) >= Yeast(ALPHA).boundary * np.sqrt(steps))[:, twenty],
            "confidence sequence": np.abs(s) > always,
            "confidence sequence at 20 looks": (np.abs(s) > always)[:, twenty],
            "confidence sequence tuned to N/10": np.abs(s) > early,
            "mixture SPRT": mixture.log_mixture(s, n, rho=tau**-2) >= -np.log(ALPHA),
            "naive peeking (planted)": (z > 1.96) & (n >= 100),
        }
        for (name, k), bound in bounds.items():
            at = np.array([steps * (i + 1) // k - 1 for i in range(k)])
            found[f"{name} K={k}"] = z[:, at] >= bound
        for name, each in found.items():
            rejected.setdefault(name, []).append(each)
    return {name: _first(np.concatenate(each)) for name, each in rejected.items()}


def group_sequential_rejections(
    spending: Spending, looks: int, *, runs: int, seed: int, bound: float | None = None
) -> float:
    """Type-I error of a plan by simulation at its looks; `bound` plants one that is the same at each."""
    rng = generator(seed)
    fractions = [(i + 1) / looks for i in range(looks)]
    planned = GroupSequentialPlan(ALPHA, spending).boundaries(fractions)
    bounds = np.array(planned if bound is None else [bound] * looks)
    z = np.cumsum(rng.standard_normal((runs, looks)), axis=1) / np.sqrt(np.arange(1, looks + 1))
    return float((np.abs(z) >= bounds).any(axis=1).mean())


def _log_normal_mixture(rng: np.random.Generator, runs: int) -> np.ndarray:
    s = np.cumsum(rng.standard_normal((runs, 1_000)), axis=1)
    return mixture.log_mixture(s, np.arange(1, 1_001), rho=100.0, alternative="greater")


def _log_beta_mixture(rng: np.random.Generator, runs: int) -> np.ndarray:
    successes = np.cumsum(rng.random((runs, 1_000)) < 0.05, axis=1)
    return bounded.log_beta_mixture(successes, np.arange(1, 1_001), 0.05, weight=100.0)


def _log_ratio_mixture(rng: np.random.Generator, runs: int) -> np.ndarray:
    """Of events one by one, a tenth of them in the treatment, which has a tenth of the traffic."""
    treatment = np.cumsum(rng.random((runs, 1_000)) < 0.1, axis=1)
    control = np.arange(1, 1_001) - treatment
    columns = (control[..., None], treatment[..., None], [0.1])
    return sequential_counts.log_ratio_mixture(*columns, ratio=1.0, expected_ratio=2.0, alternative="greater")


EProcess = Callable[[np.random.Generator, int], np.ndarray]
"""The logarithm of an e-process under its null at each of 1,000 steps, shape (runs, 1,000)."""


def likelihood_ratio_at_its_maximum(rng: np.random.Generator, runs: int) -> np.ndarray:
    """The planted bug: the likelihood of the mean that fits best, which is chosen by the same data."""
    s = np.cumsum(rng.standard_normal((runs, 1_000)), axis=1)
    return s**2 / (2 * np.arange(1, 1_001))


E_PROCESSES: dict[str, EProcess] = {
    "normal": _log_normal_mixture,
    "proportion": _log_beta_mixture,
    "rare events": _log_ratio_mixture,
}


def e_process(process: EProcess, *, runs: int, seed: int) -> tuple[dict[int, tuple[float, float]], float]:
    """Mean and standard error of an e-process at 100 and 1,000 steps; P(ever 20)."""
    rng, means, reached = generator(seed), dict.fromkeys((100, 1_000), np.zeros(2)), 0
    for _ in range(0, runs, 100):
        log_e = process(rng, 100)
        for step in means:
            e = np.exp(log_e[:, step - 1])
            means[step] = means[step] + (e.sum(), (e**2).sum())
        reached += int((log_e >= np.log(20)).any(axis=1).sum())
    found = {}
    for step, (total, squares) in means.items():
        mean = float(total) / runs
        found[step] = mean, float(np.sqrt(max(squares / runs - mean**2, 0.0) / runs))
    return found, reached / runs


def rising_p_values(*, runs: int, seed: int, keep: bool = True) -> int:
    """Looks at which the p-value of a mixture SPRT is larger than at the look before.

    Without `keep` it is the inverse of the e-value now: the planted bug.
    """
    rng, rising = generator(seed), 0
    for _ in range(runs):
        record, before = AlwaysValid(), 1.0
        for log_e in _log_normal_mixture(rng, 1)[0]:
            record = record.after(EValue(float(log_e))) if keep else AlwaysValid().after(EValue(float(log_e)))
            rising, before = rising + (record.p_value > before), record.p_value
    return rising


def lead_of_two_roots(conversions: int, *, runs: int, seed: int, factor: float = 2.0) -> float:
    """Share of A/A tests in which one named arm ever leads by `factor` sqrt(N) within N conversions."""
    rng, limit, reached = generator(seed), factor * np.sqrt(conversions), 0
    for _ in range(0, runs, 500):
        lead = np.cumsum(2 * rng.integers(0, 2, (500, conversions), dtype=np.int8) - 1, axis=1, dtype=int)
        reached += int((lead.max(axis=1) >= limit).sum())
    return reached / runs


# --- SPRT ---


class Ended(NamedTuple):
    """Shares of runs that reject and accept, and the mean number of observations."""

    reject: float
    accept: float
    observations: float


def binomial_sprt(p: float, *, runs: int, seed: int, limits: sprt.WaldLimits = ERRORS) -> Ended:
    """0.10 against 0.12 at 5 % / 20 %, untruncated, decided after each observation whose truth is `p`."""
    rng = generator(seed)
    up, down = np.log(0.12 / 0.10), np.log(0.88 / 0.90)
    ratio, n = np.zeros(runs), 0
    rejected = accepted = observations = 0
    while ratio.size:
        steps = ratio[:, None] + np.cumsum(np.where(rng.random((ratio.size, 250)) < p, up, down), axis=1)
        above, below = steps >= limits.upper, steps <= limits.lower
        ended = (above | below).any(axis=1)
        first = (above | below)[ended].argmax(axis=1)
        rows = np.arange(first.size)
        rejected += int(above[ended][rows, first].sum())
        accepted += int(below[ended][rows, first].sum())
        observations += int((n + first + 1).sum())
        ratio, n = steps[~ended, -1], n + 250
    return Ended(rejected / runs, accepted / runs, observations / runs)


def two_arm_sprt(
    base: float,
    true_effect: float,
    *,
    effect: float,
    share: float,
    runs: int,
    seed: int,
    look: int,
    looks: int,
    limits: sprt.WaldLimits = ERRORS,
) -> tuple[float, float]:
    """Shares of runs that reject and accept, deciding at 5 % / 20 % after every `look` units."""
    rng = generator(seed)
    treated = rng.binomial(look, share, (runs, looks))
    s_t = rng.binomial(treated, base + true_effect).cumsum(axis=1)
    s_c = rng.binomial(look - treated, base).cumsum(axis=1)
    totals = np.stack(((look - treated).cumsum(axis=1), s_c, treated.cumsum(axis=1), s_t))
    rejected = accepted = 0
    # In blocks of looks: most runs end in the first of them.
    for start in range(0, looks, 50):
        ratio = sprt.profile_log_ratio(*totals[:, :, start : start + 50], effect=effect)
        up, down = ratio >= limits.upper, ratio <= limits.lower
        ended = (up | down).any(axis=1)
        first = (up | down)[ended].argmax(axis=1)
        rejected += int(up[ended][np.arange(first.size), first].sum())
        accepted += int(down[ended][np.arange(first.size), first].sum())
        totals = totals[:, ~ended]
    return rejected / runs, accepted / runs


# --- A/A ---


def welch_p_values(stream: str, *, n: int, runs: int, seed: int) -> np.ndarray:
    """p-values of `runs` A/A comparisons of two arms of n, by the normal approximation."""
    rng = generator(seed)
    z = np.empty(runs)
    for run in range(runs):
        a, b = draw(stream, rng, n), draw(stream, rng, n)
        z[run] = (a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / n)
    return 2 * special.ndtr(-np.abs(z))


# --- The table ---


TWO_ARM_STREAMS = ("normal", "0.5", "0.05", "0.005", "lognormal", "t5")


def _two_arm_rows(splits: Iterable[tuple[float, float]], *, full: bool, seed: int) -> Iterator[Row]:
    runs, units = (2_000, 100_000) if full else (200, 10_000)
    for stream, (share, tuned_to) in itertools.product(TWO_ARM_STREAMS, splits):
        measured = two_arm_misses(stream, share=share, units=units, runs=runs, tuned_to=tuned_to, seed=seed)
        name = f"V1/V8 difference, {stream}, share {share}, tuned {tuned_to}"
        yield at_most(name, measured, error_limit(runs, ALPHA))
        seed += 1


def even_arms_rows(*, full: bool) -> Iterator[Row]:
    yield from _two_arm_rows([(0.5, 1_000), (0.5, 10_000)], full=full, seed=0)


def uneven_arms_rows(*, full: bool) -> Iterator[Row]:
    yield from _two_arm_rows([(0.05, 1_000), (0.95, 1_000)], full=full, seed=50)
    runs, units = (2_000, 100_000) if full else (200, 10_000)

    cases = {
        "with CUPED, normal": {"stream": "normal", "adjusted": True},
        "with CUPED, lognormal": {"stream": "lognormal", "adjusted": True},
        "0.005 against 0.01": {"stream": "0.005", "treatment_stream": "0.01"},
    }
    for seed, (name, case) in enumerate(cases.items(), start=100):
        measured = two_arm_misses(**case, share=0.05, units=units, runs=runs, tuned_to=1_000, seed=seed)
        yield at_most(f"V8 difference {name}, share 0.05", measured, error_limit(runs, ALPHA))


def one_arm_rows(*, full: bool) -> Iterator[Row]:
    runs = 2_000 if full else 200
    for seed, stream in enumerate(("normal", "0.5", "0.05", "0.005", "lognormal", "t5")):
        measured = mean_misses(stream, units=10_000, runs=runs, tuned_to=5_000, seed=120 + seed)
        yield at_most(f"V8 mean, {stream}", measured, error_limit(runs, ALPHA))
    for seed, p in enumerate((0.5, 0.05, 0.005)):
        measured = bounded_misses(p, units=10_000, runs=runs, tuned_to=1_000, seed=130 + seed)
        yield at_most(f"V8 exact sequence, {p}, from the first unit", measured, error_limit(runs, ALPHA))
    width = float(sequences.radius(1.0, 1.0, alpha=ALPHA, tuned_to=1.0)) / 1.96
    yield within("V8 width where it is tuned to, over that of the fixed interval", width, 1.50, 1.56)
    for successes, n in ((0, 1), (1, 1), (1, 2)):
        found = bounded.bounded_sequence(ProportionTotals(n, successes), alpha=ALPHA, tuned_to=1_000)
        yield at_least(f"V9 width of the exact sequence, {successes} of {n}", found.upper - found.lower, 1)
    small = runs // 10
    bernstein, betting = bernstein_misses(batches=20, runs=small, seed=140)
    yield at_most("V8 empirical Bernstein", bernstein, error_limit(small, ALPHA))
    yield at_most("V8 betting", betting, error_limit(small, ALPHA))


class Target(NamedTuple):
    """Power and mean share of the horizon used.

    Where the fixed test has power 0.8, then 0.95, then at twice the effect of the former.
    """

    power: float
    expected: float
    larger_power: float
    larger_expected: float
    double_expected: float


TARGETS = {
    "GST O'Brien-Fleming K=5": Target(0.790, 0.81, 0.946, 0.70, 0.49),
    "GST O'Brien-Fleming K=10": Target(0.785, 0.77, 0.944, 0.65, 0.44),
    "GST O'Brien-Fleming K=20": Target(0.782, 0.76, 0.941, 0.63, 0.42),
    "GST Pocock K=5": Target(0.716, 0.71, 0.911, 0.56, 0.32),
    "GST Pocock K=10": Target(0.702, 0.69, 0.905, 0.54, 0.29),
    "GST Pocock K=20": Target(0.695, 0.68, 0.901, 0.52, 0.27),
    "YEAST": Target(0.780, 0.74, 0.938, 0.61, 0.40),
    "YEAST at 20 looks": Target(0.748, 0.78, 0.926, 0.66, 0.44),
    "confidence sequence": Target(0.546, 0.77, 0.807, 0.61, 0.31),
    "confidence sequence at 20 looks": Target(0.491, 0.82, 0.768, 0.67, 0.37),
    "confidence sequence tuned to N/10": Target(0.494, 0.75, 0.767, 0.59, 0.27),
    "mixture SPRT": Target(0.546, 0.77, 0.807, 0.61, 0.32),
}


def horizon_rows(*, full: bool) -> Iterator[Row]:
    runs = 4_000 if full else 400
    null = horizon_methods(0.0, runs=runs, seed=150)
    planned = horizon_methods(1.96 + 0.8416, runs=runs, seed=151)
    larger = horizon_methods(1.96 + 1.6449, runs=runs, seed=152)
    double = horizon_methods(2 * (1.96 + 0.8416), runs=runs, seed=153)
    for name, target in TARGETS.items():
        yield at_most(f"V2/V3 type I, {name}", null[name].power, error_limit(runs, ALPHA))
        for row, measured, wanted in (
            ("power at the planned effect", planned[name].power, target.power),
            ("power at 0.95", larger[name].power, target.larger_power),
        ):
            yield at_least(f"section 2 {row}, {name}", measured, wanted - 0.03)
        for row, measured, wanted in (
            ("E[n]/N at the planned effect", planned[name].expected, target.expected),
            ("E[n]/N at 0.95", larger[name].expected, target.larger_expected),
            ("E[n]/N at twice the effect", double[name].expected, target.double_expected),
        ):
            yield at_most(f"section 2 {row}, {name}", measured, wanted + 0.03)
    order = ["GST O'Brien-Fleming K=10", "YEAST", "GST Pocock K=10", "confidence sequence"]
    gaps = [planned[a].power - planned[b].power for a, b in itertools.pairwise(order)]
    yield at_least("section 2 order of power: smallest gap", min(gaps), 0.0)


EXACT_SPRT = {0.10: (0.0470, 683.4), 0.12: (0.8016, 933.8)}
"""Probability of rejecting and mean observations under either hypothesis (gsDesign 3.6, exact)."""


def _binomial_sprt_rows(*, full: bool) -> Iterator[Row]:
    # More runs than 10,000, so that 2 % of the mean are more than four of its errors.
    runs, slack = (40_000, 0.02) if full else (4_000, 0.06)
    null, other = (binomial_sprt(p, runs=runs, seed=165 + at) for at, p in enumerate(EXACT_SPRT))
    yield at_most("V6 type I, 0.10 against 0.12", null.reject, 0.0569)
    yield at_most("V6 type II, 0.10 against 0.12", other.accept, 0.2125)
    test = sprt.BernoulliSprt(0.10, (0.12,), ERRORS)
    for (p, (reject, expected)), found in zip(EXACT_SPRT.items(), (null, other), strict=True):
        exact = test.operating_characteristic(p)
        yield within(
            f"V6 mean observations at {p:.2f}",
            found.observations,
            (1 - slack) * expected,
            (1 + slack) * expected,
        )
        yield within(
            f"V6 exact mean observations at {p:.2f}", exact.expected_n, expected - 0.1, expected + 0.1
        )
        yield within(f"V6 exact rejections at {p:.2f}", exact.reject, reject - 1e-4, reject + 1e-4)


def sprt_rows(*, full: bool) -> Iterator[Row]:
    yield from _binomial_sprt_rows(full=full)
    runs = 4_000 if full else 400
    cases = [(0.1, 0.02, 0.5, 20, 1_500), (0.1, 0.02, 0.05, 200, 750), (0.01, 0.01, 0.5, 20, 1_000)]
    for seed, (base, effect, share, look, looks) in enumerate(cases):
        outcomes = [
            two_arm_sprt(
                base, true, effect=effect, share=share, runs=runs, seed=160 + seed, look=look, looks=looks
            )
            for true in (0.0, effect / 2, effect)
        ]
        name = f"{base} + {effect}, share {share}"
        yield at_most(f"V7 type I, {name}", outcomes[0][0], error_limit(runs, 0.05))
        yield at_most(f"V7 type II, {name}", outcomes[2][1], error_limit(runs, 0.20))
        yield at_most(f"V7 rejections midway, {name}", outcomes[1][0], outcomes[2][0])


def planned_rows(*, full: bool) -> Iterator[Row]:
    for seed, spending in enumerate(("obrien-fleming", "pocock")):
        for looks in (5, 10, 20):
            measured = group_sequential_rejections(spending, looks, runs=10_000, seed=145 + seed)
            yield within(f"V2 {spending} K={looks}", measured, 0.0443, 0.0569)
    yield at_most("V3 looks at which the always-valid p rises", rising_p_values(runs=20, seed=148), 0)
    runs, errors = (20_000, 3.0) if full else (2_000, 5.0)
    for seed, name in enumerate(E_PROCESSES):
        means, ever = e_process(E_PROCESSES[name], runs=runs, seed=200 + seed)
        for n, (mean, se) in means.items():
            yield at_most(f"V4 mean e-process at {n}, {name}", mean, 1 + errors * se)
        yield at_most(f"V4 P(ever reaches 20), {name}", ever, error_limit(runs, ALPHA))
    runs = 10_000 if full else 2_000
    measured = lead_of_two_roots(2_500, runs=runs, seed=147)
    yield around("V5 a lead of 2 sqrt(N), one-sided", measured, 0.0456, runs)
    yield within("V5 the same by reflection", Yeast(ALPHA, "greater").p_value(2.0), 0.0454, 0.0457)


PARTS: Parts = {
    "sequential: even arms": even_arms_rows,
    "sequential: uneven arms": uneven_arms_rows,
    "sequential: one arm": one_arm_rows,
    "sequential: planned looks and e-processes": planned_rows,
    "sequential: horizon": horizon_rows,
    "sequential: SPRT": sprt_rows,
}
