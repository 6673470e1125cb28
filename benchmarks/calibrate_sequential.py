"""Calibration of tests that may stop early: group sequential plans, YEAST, mixtures, e-processes, SPRTs.

With `full=True` a part has the sizes of the validity table; `full=False` is the same at a tenth.
`benchmarks/calibrate.py` prints the table. Streams are drawn here; the methods under test see sums and counts
only. Every simulator is seeded and vectorised, calls the elementwise functions on which the records of
`stats` are built, and takes what a wrong method would do, so that one can be planted.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from benchmarks.validity import (
    ALPHA,
    Parts,
    Row,
    Simulated,
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
from stats.yeast import Yeast

ERRORS = sprt.WaldLimits(0.05, 0.20)

# --- Methods with a horizon, on Brownian motion ---


class Performance(NamedTuple):
    """Rejections, and mean time until the end as a share of the horizon."""

    power: Simulated
    expected: Simulated


def _ended(rejected: np.ndarray) -> np.ndarray:
    """Per run whether it rejected, and the share of the looks it took."""
    looks = rejected.shape[1]
    any_look = rejected.any(axis=1)
    return np.stack([any_look, np.where(any_look, rejected.argmax(axis=1) + 1, looks) / looks])


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
    ended: dict[str, list[np.ndarray]] = {}
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
            "Bonferroni at 20 looks (planted)": z[:, twenty] > ndtri(1 - ALPHA / 40),
        }
        for (name, k), bound in bounds.items():
            at = np.array([steps * (i + 1) // k - 1 for i in range(k)])
            found[f"{name} K={k}"] = z[:, at] >= bound
        for name, each in found.items():
            ended.setdefault(name, []).append(_ended(each))
    joined = {name: np.concatenate(each, axis=1) for name, each in ended.items()}
    return {
        name: Performance(Simulated.share(power.mean(), runs), Simulated.mean(expected))
        for name, (power, expected) in joined.items()
    }


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
    # Many runs have the same counts after the same step.
    states, at = np.unique(1_001 * np.arange(1, 1_001) + treatment, return_inverse=True)
    events, in_treatment = np.divmod(states, 1_001)
    columns = ((events - in_treatment)[:, None], in_treatment[:, None], [0.1])
    found = sequential_counts.log_ratio_mixture(
        *columns, ratio=1.0, expected_ratio=2.0, alternative="greater"
    )
    return found[at].reshape(runs, -1)


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


class Evidence(NamedTuple):
    """Means of an e-process after 100 and 1,000 steps, and the share of runs in which it ever was 20."""

    means: dict[int, Simulated]
    ever: Simulated


def e_process(process: EProcess, *, runs: int, seed: int) -> Evidence:
    rng, steps = generator(seed), (100, 1_000)
    at_steps, reached = [], 0
    for _ in range(0, runs, 500):
        log_e = process(rng, 500)
        at_steps.append(np.exp(log_e[:, [step - 1 for step in steps]]))
        reached += int((log_e >= np.log(20)).any(axis=1).sum())
    values = np.concatenate(at_steps)
    means = {step: Simulated.mean(values[:, column]) for column, step in enumerate(steps)}
    return Evidence(means, Simulated.share(reached / runs, runs))


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

    reject: Simulated
    accept: Simulated
    observations: Simulated


def binomial_sprt(p: float, *, runs: int, seed: int, limits: sprt.WaldLimits = ERRORS) -> Ended:
    """0.10 against 0.12 at 5 % / 20 %, untruncated, decided after each observation whose truth is `p`."""
    rng = generator(seed)
    up, down = np.log(0.12 / 0.10), np.log(0.88 / 0.90)
    ratio, n = np.zeros(runs), 0
    rejected = accepted = 0
    observations = []
    while ratio.size:
        steps = ratio[:, None] + np.cumsum(np.where(rng.random((ratio.size, 250)) < p, up, down), axis=1)
        above, below = steps >= limits.upper, steps <= limits.lower
        ended = (above | below).any(axis=1)
        first = (above | below)[ended].argmax(axis=1)
        rows = np.arange(first.size)
        rejected += int(above[ended][rows, first].sum())
        accepted += int(below[ended][rows, first].sum())
        observations.append(n + first + 1)
        ratio, n = steps[~ended, -1], n + 250
    return Ended(
        Simulated.share(rejected / runs, runs),
        Simulated.share(accepted / runs, runs),
        Simulated.mean(np.concatenate(observations)),
    )


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
) -> tuple[Simulated, Simulated]:
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
    return Simulated.share(rejected / runs, runs), Simulated.share(accepted / runs, runs)


# --- The table ---


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
    powers = [planned[name].power for name in order]
    gap, error = min((a.value - b.value, math.hypot(a.error, b.error)) for a, b in itertools.pairwise(powers))
    yield at_least("section 2 order of power: smallest gap", Simulated(gap, error), 0.0)
    for looks, factor in ((5, 1.025), (10, 1.038)):
        fractions = [(look + 1) / looks for look in range(looks)]
        fixed = (ndtri(1 - ALPHA / 2) + ndtri(0.8)) ** 2
        found = GroupSequentialPlan(ALPHA).paths(fractions).drift_for(0.8) ** 2 / fixed
        yield within(
            f"section 2 inflation, GST O'Brien-Fleming K={looks}", found, factor - 6e-4, factor + 6e-4
        )


EXACT_SPRT = {0.10: (0.0470, 683.4), 0.12: (0.8016, 933.8)}
"""Probability of rejecting and mean observations of 0.10 against 0.12 at 5 % / 20 % (gsDesign 3.6, exact)."""
GSDESIGN = {
    (0.10, 0.12, 0.05, 0.20): (0.0470, 0.8016, 683.4, 933.8),
    (0.05, 0.10, 0.05, 0.05): (0.0395, 0.951, 163.4, 140.1),
    (0.50, 0.60, 0.05, 0.05): (0.0463, 0.954, 135.1, 136.6),
    (0.02, 0.04, 0.05, 0.10): (0.0396, 0.900, 323.1, 327.6),
    (0.10, 0.30, 0.02, 0.03): (0.0137, 0.973, 29.9, 26.6),
}
"""Type I error, power and mean observations under either hypothesis, by (p0, p1, alpha, beta), as printed."""
SAVINGS = {(0.05, 0.05): (0.51, 0.51), (0.05, 0.20): (0.57, 0.38), (0.01, 0.01): (0.58, 0.58)}
"""Wald's saving over the fixed test of a normal mean, under either hypothesis, by (alpha, beta)."""


def distance_from_gsdesign(
    pair: tuple[float, float, float, float],
    characteristic: Callable[..., sprt.OperatingCharacteristic] = sprt.BernoulliSprt.operating_characteristic,
) -> float:
    """The largest relative difference of the four figures that gsDesign prints for this pair."""
    null, other, alpha, beta = pair
    test = sprt.BernoulliSprt(null, (other,), sprt.WaldLimits(alpha, beta))
    at_null, at_other = (characteristic(test, p) for p in (null, other))
    found = (at_null.reject, at_other.reject, at_null.expected_n, at_other.expected_n)
    return max(abs(ours / theirs - 1) for ours, theirs in zip(found, GSDESIGN[pair], strict=True))


def binomial_sprt_rows(*, full: bool) -> Iterator[Row]:
    # More runs than 10,000, so that 2 % of the mean are more than four of its errors.
    runs, slack = (40_000, 0.02) if full else (4_000, 0.06)
    null, other = (binomial_sprt(p, runs=runs, seed=165 + at) for at, p in enumerate(EXACT_SPRT))
    yield at_most("V6 type I, 0.10 against 0.12", null.reject, 0.0569)
    yield at_most("V6 type II, 0.10 against 0.12", other.accept, 0.2125)
    for (p, (_, expected)), found in zip(EXACT_SPRT.items(), (null, other), strict=True):
        low, high = (1 - slack) * expected, (1 + slack) * expected
        yield within(f"V6 mean observations at {p:.2f}", found.observations, low, high)
    for pair in GSDESIGN:
        null_rate, rate, alpha, beta = pair
        name = f"V6 exact figures, {null_rate:g} against {rate:g} at {alpha:g}/{beta:g}: off gsDesign's by"
        # Their last digit is as much as 0.36 % of the smallest figure.
        yield at_most(name, distance_from_gsdesign(pair), 0.004)
    for (alpha, beta), savings in SAVINGS.items():
        test = sprt.NormalSprt(0, 1, 1, sprt.WaldLimits(alpha, beta))
        fixed = float(ndtri(1 - alpha) + ndtri(1 - beta)) ** 2
        for mean, saving in enumerate(savings):
            found = 1 - test.wald_approximation(mean).expected_n / fixed
            yield within(
                f"V6 Wald's saving at {alpha:g}/{beta:g}, mean {mean}", found, saving - 5e-3, saving + 5e-3
            )


def two_arm_sprt_rows(*, full: bool) -> Iterator[Row]:
    runs = 4_000 if full else 400
    cases = [(0.1, 0.02, 0.5, 20, 1_500), (0.1, 0.02, 0.05, 200, 750), (0.01, 0.01, 0.5, 20, 1_000)]
    for seed, (base, effect, share, look, looks) in enumerate(cases):
        null, midway, other = (
            two_arm_sprt(
                base, true, effect=effect, share=share, runs=runs, seed=160 + seed, look=look, looks=looks
            )
            for true in (0.0, effect / 2, effect)
        )
        name = f"{base} + {effect}, share {share}"
        yield at_most(f"V7 type I, {name}", null[0], error_limit(runs, 0.05))
        yield at_most(f"V7 type II, {name}", other[1], error_limit(runs, 0.20))
        yield at_most(f"V7 rejections midway, {name}", midway[0], other[0].value)


def planned_rows(*, full: bool) -> Iterator[Row]:
    del full  # Cheap at any size.
    runs = 10_000
    for seed, spending in enumerate(("obrien-fleming", "pocock")):
        for looks in (5, 10, 20):
            measured = group_sequential_rejections(spending, looks, runs=runs, seed=145 + seed)
            yield within(f"V2 {spending} K={looks}", Simulated.share(measured, runs), 0.0443, 0.0569)


def e_process_rows(*, full: bool) -> Iterator[Row]:
    yield at_most("V3 looks at which the always-valid p rises", rising_p_values(runs=20, seed=148), 0)
    runs, errors = (20_000, 3.0) if full else (2_000, 5.0)
    for seed, name in enumerate(E_PROCESSES):
        found = e_process(E_PROCESSES[name], runs=runs, seed=200 + seed)
        for n, mean in found.means.items():
            yield at_most(f"V4 mean e-process at {n}, {name}", mean, 1 + errors * mean.error)
        yield at_most(f"V4 P(ever reaches 20), {name}", found.ever, error_limit(runs, ALPHA))


def two_roots_rows(*, full: bool) -> Iterator[Row]:
    runs = 10_000 if full else 2_000
    measured = lead_of_two_roots(2_500, runs=runs, seed=147)
    yield around("V5 a lead of 2 sqrt(N), one-sided", measured, 0.0456, runs)
    yield within("V5 the same by reflection", Yeast(ALPHA, "greater").p_value(2.0), 0.0454, 0.0457)


PARTS: Parts = {
    "V2: group sequential plans": planned_rows,
    "V3, V4: e-processes": e_process_rows,
    "V5: a lead of two roots": two_roots_rows,
    "section 2, V2, V3: methods with a horizon": horizon_rows,
    "V6: SPRT of one rate": binomial_sprt_rows,
    "V7: SPRT of two arms": two_arm_sprt_rows,
}
