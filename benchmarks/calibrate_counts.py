"""Calibration of what counts: sample ratios, and the errors and latencies of canaries."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from benchmarks.validity import Parts, Row, Simulated, at_least, at_most, error_limit, generator, within
from stats import balance, sequences, sequential_counts, srm
from stats.errors import InsufficientData
from stats.totals import MeanTotals

Evidence = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""The logarithm of the evidence, from counts (..., periods, arms) and probabilities (periods, arms)."""


class Delays(NamedTuple):
    """Share of runs that alarm, and quantiles of the delay (infinite where none)."""

    alarms: Simulated
    median: Simulated
    p90: Simulated


def _delays(hit: np.ndarray, spent: np.ndarray) -> Delays:
    any_look = hit.any(axis=1)
    delay = np.where(any_look, spent[np.arange(len(hit)), hit.argmax(axis=1)], np.inf)
    return Delays(
        Simulated.share(any_look.mean(), len(hit)),
        Simulated.quantile(delay, 0.5),
        Simulated.quantile(delay, 0.9),
    )


def chi_square_evidence(counts: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The planted bug: 1 / p of the chi-square test of one period, made for one look, at every look."""
    observed = counts[..., 0, :]
    expected = observed.sum(axis=-1, keepdims=True) * probabilities[0]
    statistic = ((observed - expected) ** 2 / expected).sum(axis=-1)
    return -chi2.logsf(statistic, len(probabilities[0]) - 1)


def srm_alarms(
    share: float,
    *,
    runs: int,
    seed: int,
    looks: int = 100,
    alpha: float = 0.01,
    evidence: Evidence = srm.log_tilt_mixture,
) -> Delays:
    """Sequential SRM test of 50/50 where the first arm really gets `share`, 1,000 units a look."""
    rng = generator(seed)
    first = rng.binomial(1_000, share, (runs, looks)).cumsum(axis=1)
    total = np.broadcast_to(np.arange(1, looks + 1) * 1_000, first.shape)
    counts = np.stack([first, total - first], axis=-1)[..., None, :]
    even = np.array([[0.5, 0.5]])
    return _delays(np.array([evidence(run, even) for run in counts]) >= -np.log(alpha), total)


def moving_srm_alarms(*, runs: int, seed: int, alpha: float = 0.01, stale: bool = False) -> Simulated:
    """Three arms, 100 policy versions of 200 units whose probabilities follow what was drawn before.

    `stale` plants a fault: probabilities of the version before are logged.
    """
    rng = generator(seed)
    alarms = 0
    for _ in range(runs):
        p, seen, logged, observed = np.full(3, 1 / 3), np.ones(3), [], []
        for _ in range(100):
            counts_now = rng.multinomial(200, p)
            observed.append(counts_now)
            logged.append(p)
            seen = seen + counts_now * rng.random(3)
            p = 0.05 + 0.85 * seen**2 / (seen**2).sum()
            p = p / p.sum()
        probabilities = np.array([logged[0], *logged[:-1]] if stale else logged)
        # Looks after every tenth version.
        alarms += any(
            srm.log_tilt_mixture(np.array(observed[:k]), probabilities[:k]) >= -np.log(alpha)
            for k in range(10, 101, 10)
        )
    return Simulated.share(alarms / runs, runs)


def covariate_alarms(
    draw: Callable[[np.random.Generator, int], np.ndarray],
    *,
    sizes: tuple[int, int],
    runs: int,
    seed: int,
    looks: int = 20,
    moved: float = 0.0,
) -> Simulated:
    """How often a covariate is ever called unbalanced at 1 % in `looks` looks on as many units each.

    `moved` plants a fault: the treatment moves the covariate by so many standard errors at the end.
    """
    rng, alarms = generator(seed), 0
    for _ in range(runs):
        control, treatment = (draw(rng, n * looks) for n in sizes)
        error = np.sqrt(control.var() / len(control) + treatment.var() / len(treatment))
        treatment = treatment + moved * error
        parts = [np.array_split(arm, looks) for arm in (control, treatment)]
        totals = [MeanTotals(), MeanTotals()]
        for look in range(looks):
            totals = [
                arm + MeanTotals.from_observations(part[look])
                for arm, part in zip(totals, parts, strict=True)
            ]
            if min(arm.n for arm in totals) < sequences.ARM_UNITS_MIN:
                continue
            try:
                evidence = balance.balance_evalue([(totals[0], totals[1])])
            except InsufficientData:  # so far every unit has the same value
                continue
            if evidence.rejects(0.01):
                alarms += 1
                break
    return Simulated.share(alarms / runs, runs)


def error_canary(
    control: float,
    treatment: float,
    *,
    runs: int,
    looks: int,
    seed: int,
    margin: float = 1.0,
    share: float = 0.05,
) -> Delays:
    """Harm alarms at 1 % on error rates, 95/5, after every 1,000 requests; delays in canary requests.

    Another `share` plants a fault: the traffic is not what the test is told.
    """
    rng = generator(seed)
    hits, spent = [], []
    # In blocks, because the prior of the ratio has many points.
    for _ in range(0, runs, 100):
        requests = rng.binomial(1_000, 0.05, (min(runs, 100), looks))
        errors_t = rng.binomial(requests, treatment).cumsum(axis=1)
        errors_c = rng.binomial(1_000 - requests, control).cumsum(axis=1)
        evidence = sequential_counts.log_ratio_mixture(
            errors_c[..., None],
            errors_t[..., None],
            [share],
            ratio=1.0,
            expected_ratio=1 + margin,
            alternative="greater",
        )
        hits.append(evidence >= np.log(100))
        spent.append(requests.cumsum(axis=1))
    return _delays(np.concatenate(hits), np.concatenate(spent))


def latency_canary(
    factor: float, *, runs: int, looks: int, seed: int, margin: float = 0.1, point: bool = False
) -> Delays:
    """Harm alarms at 1 % on the mean of lognormal latencies (sigma 0.5), 95/5, after every 1,000 requests.

    `point` plants a bug: alarms when the mean of the last four looks is more than the margin above control's.
    """
    rng = generator(seed)
    mean, sd = np.exp(0.125), np.sqrt(np.exp(0.25) * (np.exp(0.25) - 1))
    tuned_to = sequences.units_to_tell(margin * mean, float(sd), alpha=0.01, alternative="greater")
    requests = rng.binomial(1_000, 0.05, (runs, looks))
    n_t, n_c = requests.cumsum(axis=1), (1_000 - requests).cumsum(axis=1)
    sums = np.zeros((4, runs, looks))
    for run in range(runs):
        for arm, (size, scale) in enumerate(((1_000 - requests[run], 1.0), (requests[run], factor))):
            x = scale * np.exp(0.5 * rng.standard_normal(size.sum()))
            starts = np.r_[0, size.cumsum()[:-1]]
            sums[2 * arm, run] = np.add.reduceat(x, starts)
            sums[2 * arm + 1, run] = np.add.reduceat(x * x, starts)
    s_c, q_c, s_t, q_t = sums.cumsum(axis=2)
    v_c, v_t = sequences.shrunk_variances(n_c, q_c - s_c**2 / n_c, n_t, q_t - s_t**2 / n_t)
    distance = sequences.radius(
        v_c / n_c + v_t / n_t, n_c * n_t / (n_c + n_t), alpha=0.01, tuned_to=tuned_to, alternative="greater"
    )
    if point:
        last_n, last_s = n_t[:, 4:] - n_t[:, :-4], s_t[:, 4:] - s_t[:, :-4]
        return _delays(last_s / last_n > (1 + margin) * (s_c / n_c)[:, 4:], n_t[:, 4:])
    return _delays((s_t / n_t - s_c / n_c > distance) & (n_t >= sequences.ARM_UNITS_MIN), n_t)


def sample_ratio_rows(*, full: bool) -> Iterator[Row]:
    runs = 4_000 if full else 400
    yield at_most("V15 SRM alarms under 50/50", srm_alarms(0.5, runs=runs, seed=170).alarms, 0.015)
    off = srm_alarms(0.51, runs=runs, seed=171)
    yield at_least("V15 SRM 51/49 found by 100k", off.alarms, 0.99)
    yield at_most("V15 SRM 51/49 median units", off.median, 33_000)
    slightly = srm_alarms(0.505, runs=runs, seed=173)
    # The mixture of tilts is no Dirichlet of 10,000, which finds 0.42: it looks for smaller and larger ones.
    yield at_least("V15 SRM 50.5/49.5 found by 100k", slightly.alarms, 0.42 - 0.05)
    published = srm.chi_square([srm.ArmCounts((821_588, 815_482), (0.5, 0.5))]).p_value
    yield within("V15 SRM 821,588 against 815,482: p in millionths", 1e6 * published, 1.75, 1.85)
    moving = moving_srm_alarms(runs=runs // 8, seed=172)
    yield at_most("V15 SRM alarms under moving weights", moving, error_limit(runs // 8, 0.01))
    stale = moving_srm_alarms(runs=runs // 40, seed=174, stale=True)
    yield at_least("V11 propensities that were not those drawn with: found", stale, 0.5 if full else 0.3)


def canary_rows(*, full: bool) -> Iterator[Row]:
    runs = 2_000 if full else 200
    for seed, (control, treatment, median, p90) in enumerate(
        ((0.01, 0.03, 900, 1_500), (0.005, 0.025, 800, None), (0.01, 0.02, 2_300, None))
    ):
        found = error_canary(control, treatment, runs=runs, looks=200, seed=180 + seed)
        yield at_most(f"section 9 errors {control} to {treatment}: median", found.median, median)
        if p90 is not None:
            yield at_most(f"section 9 errors {control} to {treatment}: p90", found.p90, p90)
    healthy = error_canary(0.01, 0.01, runs=runs // 2, looks=2_000, seed=185)
    yield at_most("section 9 false rollbacks, errors", healthy.alarms, 0.021)
    found = latency_canary(1.1, runs=runs, looks=60, seed=186)
    yield at_most("section 9 latency x 1.1: median", found.median, 700)
    yield at_most("section 9 latency x 1.1: p90", found.p90, 1_100)
    yield at_most(
        "section 9 false rollbacks, latency",
        latency_canary(1.0, runs=runs // 2, looks=800, seed=187).alarms,
        0.021,
    )


def covariate_rows(*, full: bool) -> Iterator[Row]:
    runs = 4_000 if full else 200
    draws: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
        "normal": lambda rng, n: rng.normal(size=n),
        "lognormal (sigma 1.5)": lambda rng, n: rng.lognormal(sigma=1.5, size=n),
        "Bernoulli (.02)": lambda rng, n: (rng.random(n) < 0.02).astype(float),
    }
    for at, (name, draw) in enumerate(draws.items()):
        for sizes in ((100, 100), (190, 10)):
            found = covariate_alarms(draw, sizes=sizes, runs=runs, seed=190 + at)
            split = f"{sizes[0] / sum(sizes):.0%}"
            yield at_most(f"balance alarms, {name}, {split} control", found, error_limit(runs, 0.01))
    found = covariate_alarms(draws["normal"], sizes=(100, 100), runs=runs // 10, seed=195, moved=4.7)
    yield at_least("balance, moved by 4.7 standard errors: found", found, 0.6)


PARTS: Parts = {
    "V15, V11: sample ratio": sample_ratio_rows,
    "balance of covariates": covariate_rows,
    "section 9: canaries": canary_rows,
}
