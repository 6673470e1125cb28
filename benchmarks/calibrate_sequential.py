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

from benchmarks.validity import Parts, Row, at_least, at_most, error_limit, generator, within
from stats import adaptive, bounded, mixture, sequences, sequential_counts, sprt, srm
from stats.group_sequential import GroupSequentialPlan, Spending
from stats.totals import MeanTotals
from stats.yeast import Yeast

ALPHA = 0.05

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


def _ever_misses(x, covariate, treated, truth: float, radius: Radius, tuned_to: float) -> bool:
    arms = []
    for arm in (~treated, treated):
        n = np.cumsum(arm).astype(float)
        with np.errstate(all="ignore"):
            sums = [np.cumsum(np.where(arm, x, 0.0))]
            if covariate is not None:
                sums.append(np.cumsum(np.where(arm, covariate, 0.0)))
            means = [total / n for total in sums]
            m2 = np.cumsum(np.where(arm, x * x, 0.0)) - n * means[0] ** 2
            extra = ()
            if covariate is not None:
                cross = np.cumsum(np.where(arm, x * covariate, 0.0)) - n * means[0] * means[1]
                square = np.cumsum(np.where(arm, covariate**2, 0.0)) - n * means[1] ** 2
                extra = (cross, square)
        arms.append((n, means, np.maximum(m2, 0.0), extra))
    (n_c, mean_c, m2_c, extra_c), (n_t, mean_t, m2_t, extra_t) = arms
    seen = np.minimum(n_c, n_t) >= 2
    with np.errstate(all="ignore"):
        difference = mean_t[0] - mean_c[0]
        if covariate is not None:
            slope = (extra_c[0] + extra_t[0]) / (extra_c[1] + extra_t[1])
            difference = difference - slope * (mean_t[1] - mean_c[1])
            m2_c = np.maximum(m2_c - 2 * slope * extra_c[0] + slope**2 * extra_c[1], 0.0)
            m2_t = np.maximum(m2_t - 2 * slope * extra_t[0] + slope**2 * extra_t[1], 0.0)
        distance = radius(n_c, m2_c, n_t, m2_t, tuned_to=tuned_to)
        return bool((seen & (np.abs(difference - truth) > distance)).any())


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
    always = sequences.radius(1 / n, n, alpha=ALPHA, tuned_to=steps) * n
    tau = (1.96 + 0.8416) / np.sqrt(steps)
    rejected: dict[str, list[np.ndarray]] = {}
    for _ in range(0, runs, 100):
        s = np.cumsum(rng.standard_normal((100, steps)) + drift / np.sqrt(steps), axis=1)
        z = np.abs(s) / np.sqrt(n)
        found = {
            "YEAST": np.abs(s) >= Yeast(ALPHA).boundary * np.sqrt(steps),
            "confidence sequence": np.abs(s) > always,
            "mixture SPRT": mixture.log_mixture(s, n, rho=tau**-2) >= -np.log(ALPHA),
            "naive peeking (planted)": (z > 1.96) & (n >= 100),
        }
        for (name, k), bound in bounds.items():
            at = np.array([steps * (i + 1) // k - 1 for i in range(k)])
            found[f"{name} K={k}"] = z[:, at] >= bound
        for name, each in found.items():
            rejected.setdefault(name, []).append(each)
    return {name: _first(np.concatenate(each)) for name, each in rejected.items()}


def group_sequential_rejections(spending: Spending, looks: int, *, runs: int, seed: int) -> float:
    """Type-I error of a plan by simulation at its looks."""
    rng = generator(seed)
    fractions = [(i + 1) / looks for i in range(looks)]
    bounds = np.array(GroupSequentialPlan(ALPHA, spending).boundaries(fractions))
    z = np.cumsum(rng.standard_normal((runs, looks)), axis=1) / np.sqrt(np.arange(1, looks + 1))
    return float((np.abs(z) >= bounds).any(axis=1).mean())


def e_process(*, runs: int, seed: int) -> tuple[dict[int, tuple[float, float]], float]:
    """Mean and standard error of the one-sided mixture e-process at 100 and 1,000 steps; P(ever 20)."""
    rng = generator(seed)
    n = np.arange(1, 1_001, dtype=float)
    s = np.cumsum(rng.standard_normal((runs, 1_000)), axis=1)
    log_e = mixture.log_mixture(s, n, rho=100.0, alternative="greater")
    at = {k: np.exp(log_e[:, k - 1]) for k in (100, 1_000)}
    means = {k: (float(e.mean()), float(e.std() / np.sqrt(runs))) for k, e in at.items()}
    return means, float((log_e >= np.log(20)).any(axis=1).mean())


# --- SPRT ---


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
) -> tuple[float, float]:
    """Shares of runs that reject and accept, deciding at 5 % / 20 % after every `look` units."""
    rng = generator(seed)
    limits = sprt.WaldLimits(0.05, 0.20)
    treated = rng.binomial(look, share, (runs, looks))
    s_t = rng.binomial(treated, base + true_effect).cumsum(axis=1)
    s_c = rng.binomial(look - treated, base).cumsum(axis=1)
    ratio = sprt.profile_log_ratio(
        (look - treated).cumsum(axis=1), s_c, treated.cumsum(axis=1), s_t, effect=effect
    )
    up, down = ratio >= limits.upper, ratio <= limits.lower
    first = np.where((up | down).any(axis=1), (up | down).argmax(axis=1), looks - 1)
    row = np.arange(runs)
    return float(up[row, first].mean()), float(down[row, first].mean())


# --- Counts ---


class Delays(NamedTuple):
    """Share of runs that alarm, and quantiles of the delay (infinite where none)."""

    alarms: float
    median: float
    p90: float


def _delays(hit: np.ndarray, spent: np.ndarray) -> Delays:
    any_look = hit.any(axis=1)
    delay = np.where(any_look, spent[np.arange(len(hit)), hit.argmax(axis=1)], np.inf)
    return Delays(
        float(any_look.mean()),
        float(np.quantile(delay, 0.5, method="higher")),
        float(np.quantile(delay, 0.9, method="higher")),
    )


def srm_alarms(share: float, *, runs: int, seed: int, looks: int = 100, alpha: float = 0.01) -> Delays:
    """Sequential SRM test of 50/50 where the first arm really gets `share`, 1,000 units a look."""
    rng = generator(seed)
    first = rng.binomial(1_000, share, (runs, looks)).cumsum(axis=1)
    total = np.broadcast_to(np.arange(1, looks + 1) * 1_000, first.shape)
    evidence = srm.log_tilt_mixture(np.stack([first, total - first], axis=-1)[..., None, :], [[0.5, 0.5]])
    return _delays(evidence >= -np.log(alpha), total)


def moving_srm_alarms(*, runs: int, seed: int, alpha: float = 0.01, stale: bool = False) -> float:
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
    return alarms / runs


def error_canary(
    control: float, treatment: float, *, runs: int, looks: int, seed: int, margin: float = 1.0
) -> Delays:
    """Harm alarms at 1 % on error rates, 95/5, after every 1,000 requests; delays in canary requests."""
    rng = generator(seed)
    requests = rng.binomial(1_000, 0.05, (runs, looks))
    errors_t = rng.binomial(requests, treatment).cumsum(axis=1)
    errors_c = rng.binomial(1_000 - requests, control).cumsum(axis=1)
    evidence = sequential_counts.log_ratio_mixture(
        errors_c[..., None],
        errors_t[..., None],
        [0.05],
        ratio=1.0,
        expected_ratio=1 + margin,
        alternative="greater",
    )
    return _delays(evidence >= np.log(100), requests.cumsum(axis=1))


def latency_canary(factor: float, *, runs: int, looks: int, seed: int, margin: float = 0.1) -> Delays:
    """Harm alarms at 1 % on the mean of lognormal latencies (sigma 0.5), 95/5, after every 1,000 requests."""
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
    return _delays((s_t / n_t - s_c / n_c > distance) & (n_t >= sequences.ARM_UNITS_MIN), n_t)


# --- Bandits ---


class History(NamedTuple):
    """Histories of a bandit: arrays for `adaptive` per arm, and running sums (runs, periods, arms)."""

    arms: list[adaptive.ArmArrays]
    pulls: np.ndarray
    rewards: np.ndarray


def thompson(
    means: Iterable[float],
    *,
    kind: str,
    periods: int,
    batch: int,
    runs: int,
    seed: int,
    delay: int = 0,
    floor: float = 0.01,
    warm_up: int = 20,
) -> History:
    """Thompson sampling with a propensity floor, `batch` assignments a period, rewards `delay` periods late.

    Uniform until `warm_up` pulls per arm. Probability matching by 40 draws of a normal posterior; their
    shares are then exactly the logged propensities.
    """
    mu = np.array(list(means))
    rng = generator(seed)
    k = len(mu)
    n, s, q = (np.zeros((runs, periods, k)) for _ in range(3))
    e = np.full((runs, periods, k), 1 / k)
    known_n, known_s = np.zeros((runs, k)), np.zeros((runs, k))
    for t in range(periods):
        if t > delay:
            known_n, known_s = known_n + n[:, t - delay - 1], known_s + s[:, t - delay - 1]
        if max(t - delay, 0) * batch >= warm_up * k:
            pulls, gains = known_n + 1, known_s + mu.mean()
            scale = (
                1.0 if kind == "normal" else np.sqrt(np.maximum(gains / pulls * (1 - gains / pulls), 1e-3))
            )
            draws = gains / pulls + scale / np.sqrt(pulls) * rng.standard_normal((40, runs, k))
            best = (draws.argmax(axis=2)[..., None] == np.arange(k)).mean(axis=0)
            e[:, t] = floor + (1 - k * floor) * best
        n[:, t] = rng.multinomial(batch, e[:, t] / e[:, t].sum(axis=1, keepdims=True))
        if kind == "normal":
            s[:, t] = n[:, t] * mu + np.sqrt(n[:, t]) * rng.standard_normal((runs, k))
            # Given n, the sum of squares about the mean is chi-square with n - 1 degrees of freedom.
            freedom = np.maximum(n[:, t] - 1, 0)
            around = np.where(freedom > 0, rng.chisquare(np.maximum(freedom, 1)), 0.0)
            q[:, t] = around + s[:, t] ** 2 / np.maximum(n[:, t], 1)
        else:
            s[:, t] = q[:, t] = rng.binomial(n[:, t].astype(int), mu)
    arms = []
    assigned = np.full((runs, periods), float(batch))
    for arm in range(k):
        w = 1 / e[..., arm]
        na, sa, qa = n[..., arm], s[..., arm], q[..., arm]
        arms.append(
            adaptive.ArmArrays(assigned, e[..., arm], na, na * w, na * w**2, sa * w, sa * w**2, qa * w**2)
        )
    return History(arms, n.cumsum(axis=1), s.cumsum(axis=1))


class BanditFigures(NamedTuple):
    """Of the difference of the last arm and the first; of the arm with the lower mean."""

    coverage: float
    naive_coverage: float
    bias: float
    naive_bias: float
    arm_coverage: float
    anytime_misses: float
    naive_anytime_misses: float


def bandit_figures(history: History, means: list[float], *, kind: str) -> BanditFigures:
    """Coverage at the end with propensity weights; misses at any look, exact or of known variance."""
    mu = np.array(means)
    first, last = history.arms[0], history.arms[-1]
    guess = 0.0 if kind == "normal" else float(mu.mean())
    value, variance = adaptive.differences(first, last, weights="propensity", first_guess=guess)
    mean, arm_variance = adaptive.estimates(first, weights="propensity", first_guess=guess)
    truth = mu[-1] - mu[0]
    pulls, rewards = history.pulls, history.rewards
    with np.errstate(all="ignore"):
        averages = rewards / pulls
        spread = np.ones_like(averages) if kind == "normal" else averages * (1 - averages)
        error = np.sqrt(spread[..., 0] / pulls[..., 0] + spread[..., -1] / pulls[..., -1])
        naive_z = (averages[..., -1] - averages[..., 0] - truth) / error
        if kind == "normal":
            missed = np.zeros(pulls.shape[:2], dtype=bool)
            k = sequences.radius(1.0, np.maximum(pulls, 1), alpha=ALPHA / 2, tuned_to=500)
            both = (k / np.sqrt(pulls))[..., 0] + (k / np.sqrt(pulls))[..., -1]
            missed = np.abs(averages[..., -1] - averages[..., 0] - truth) > both
        else:
            weight = mixture.tuned(500, alpha=ALPHA / 2) - 1
            evidence = [
                bounded.log_beta_mixture(rewards[..., a], pulls[..., a], mu[a], weight=weight)
                for a in (0, -1)
            ]
            missed = np.maximum(*evidence) >= -np.log(ALPHA / 2)
    answered = np.minimum(pulls[:, -1, 0], pulls[:, -1, -1]) >= adaptive.ESTIMATE_PULLS_MIN
    late = (pulls[..., 0] >= 10) & (pulls[..., -1] >= 10)
    return BanditFigures(
        float((np.abs(value - truth) <= 1.96 * np.sqrt(variance))[answered].mean()),
        float((np.abs(naive_z[:, -1]) <= 1.96).mean()),
        float((mean - mu[0]).mean()),
        float((averages[:, -1, 0] - mu[0]).mean()),
        float((np.abs(mean - mu[0]) <= 1.96 * np.sqrt(arm_variance))[answered].mean()),
        float((missed & (pulls.min(axis=2) > 0)).any(axis=1).mean()),
        float((late & (np.abs(naive_z) > 1.96)).any(axis=1).mean()),
    )


def aipw_sequence_misses(
    history: History, means: list[float], *, looks: Iterable[int], pulls_min: int
) -> float:
    """Share of histories in which `adaptive.difference_sequence` ever misses at these periods."""
    mu = np.array(means)
    first, last = history.arms[0], history.arms[-1]
    missed = np.zeros(len(history.pulls), dtype=bool)
    for end in looks:
        cut = [
            adaptive.ArmArrays(*(getattr(a, f)[:, :end] for f in a.__struct_fields__)) for a in (first, last)
        ]
        value, variance = adaptive.differences(cut[0], cut[1], weights="uniform", first_guess=0.0)
        n = float(cut[0].assigned[0].sum())
        distance = sequences.radius(variance, n, alpha=ALPHA, tuned_to=1_000)
        enough = (history.pulls[:, end - 1, 0] >= pulls_min) & (history.pulls[:, end - 1, -1] >= pulls_min)
        missed |= enough & (np.abs(value - (mu[-1] - mu[0])) > distance)
    return float(missed.mean())


def importance_misses(history: History, means: list[float], *, looks: Iterable[int]) -> float:
    """Share of histories in which `importance_sequence` of the first arm misses at any of these periods."""
    arm, truth, misses = history.arms[0], means[0], 0
    looks = list(looks)
    for run in range(len(history.pulls)):
        fields = {f: getattr(arm, f)[run] for f in arm.__struct_fields__}
        periods = [
            adaptive.ArmPeriod(
                int(fields["assigned"][t]),
                float(fields["propensity"][t]),
                int(fields["pulls"][t]),
                float(fields["weight"][t]),
                float(fields["weight_squares"][t]),
                float(fields["reward"][t]),
                float(fields["reward_weight_squares"][t]),
                float(fields["reward_squares"][t]),
            )
            for t in range(looks[-1])
        ]
        intervals = (
            adaptive.importance_sequence(periods[:end], alpha=ALPHA, tuned_to=5_000, expected_variance=1.0)
            for end in looks
        )
        misses += any(not interval.lower <= truth <= interval.upper for interval in intervals)
    return misses / len(history.pulls)


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
    small = runs // 10
    bernstein, betting = bernstein_misses(batches=20, runs=small, seed=140)
    yield at_most("V8 empirical Bernstein", bernstein, error_limit(small, ALPHA))
    yield at_most("V8 betting", betting, error_limit(small, ALPHA))


TARGETS = {
    "GST O'Brien-Fleming K=5": (0.790, 0.81, 0.946),
    "GST O'Brien-Fleming K=10": (0.785, 0.77, 0.944),
    "GST O'Brien-Fleming K=20": (0.782, 0.76, 0.941),
    "GST Pocock K=5": (0.716, 0.71, 0.911),
    "GST Pocock K=10": (0.702, 0.69, 0.905),
    "GST Pocock K=20": (0.695, 0.68, 0.901),
    "YEAST": (0.780, 0.74, 0.938),
    "confidence sequence": (0.546, 0.77, 0.807),
    "mixture SPRT": (0.546, 0.77, 0.807),
}
"""Power at the planned effect, mean share of the horizon used there, power where the fixed test has 0.95."""


def horizon_rows(*, full: bool) -> Iterator[Row]:
    runs = 4_000 if full else 400
    null = horizon_methods(0.0, runs=runs, seed=150)
    planned = horizon_methods(1.96 + 0.8416, runs=runs, seed=151)
    larger = horizon_methods(1.96 + 1.6449, runs=runs, seed=152)
    for name, (power, expected, high) in TARGETS.items():
        yield at_most(f"V2/V3 type I, {name}", null[name].power, error_limit(runs, ALPHA))
        yield at_least(f"section 2 power at the planned effect, {name}", planned[name].power, power - 0.03)
        yield at_most(f"section 2 E[n]/N there, {name}", planned[name].expected, expected + 0.03)
        yield at_least(f"section 2 power at 0.95, {name}", larger[name].power, high - 0.03)
    order = ["GST O'Brien-Fleming K=10", "YEAST", "GST Pocock K=10", "confidence sequence"]
    gaps = [planned[a].power - planned[b].power for a, b in itertools.pairwise(order)]
    yield at_least("section 2 order of power: smallest gap", min(gaps), 0.0)


def sprt_rows(*, full: bool) -> Iterator[Row]:
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


def count_rows(*, full: bool) -> Iterator[Row]:
    runs = 2_000 if full else 200
    yield at_most("V15 SRM alarms under 50/50", srm_alarms(0.5, runs=runs, seed=170).alarms, 0.015)
    off = srm_alarms(0.51, runs=runs, seed=171)
    yield at_least("V15 SRM 51/49 found by 100k", off.alarms, 0.99)
    yield at_most("V15 SRM 51/49 median units", off.median, 33_000)
    moving = moving_srm_alarms(runs=runs // 4, seed=172)
    yield at_most("V15 SRM alarms under moving weights", moving, error_limit(runs // 4, 0.01))
    for seed, (control, treatment, median, p90) in enumerate(
        ((0.01, 0.03, 900, 1_500), (0.005, 0.025, 800, np.inf), (0.01, 0.02, 2_300, np.inf))
    ):
        found = error_canary(control, treatment, runs=runs, looks=200, seed=180 + seed)
        yield at_most(f"section 9 errors {control} to {treatment}: median", found.median, median)
        yield at_most(f"section 9 errors {control} to {treatment}: p90", found.p90, p90)
    healthy = error_canary(0.01, 0.01, runs=runs // 2, looks=2_000, seed=185)
    yield at_most("section 9 false rollbacks, errors", healthy.alarms, 0.021)
    found = latency_canary(1.1, runs=runs // 4, looks=60, seed=186)
    yield at_most("section 9 latency x 1.1: median", found.median, 700)
    yield at_most("section 9 latency x 1.1: p90", found.p90, 1_100)
    yield at_most(
        "section 9 false rollbacks, latency",
        latency_canary(1.0, runs=runs // 2, looks=800, seed=187).alarms,
        0.021,
    )


def bandit_rows(*, full: bool) -> Iterator[Row]:
    runs = 2_000 if full else 200
    cases: list[tuple[str, list[float], str, int, int, int]] = [
        ("normal 0/0", [0.0, 0.0], "normal", 2_000, 1, 0),
        ("normal 0/0.2", [0.0, 0.2], "normal", 2_000, 1, 0),
        ("0.1/0.1 each", [0.1, 0.1], "bernoulli", 2_000, 1, 0),
        ("0.1/0.11 batches of 100", [0.1, 0.11], "bernoulli", 200, 100, 0),
        ("0.1/0.11 batches of 100, rewards 10 late", [0.1, 0.11], "bernoulli", 200, 100, 10),
        ("0.1/0.11 batches of 10,000", [0.1, 0.11], "bernoulli", 10, 10_000, 0),
        ("0.30/0.35/0.45 batches of 100", [0.3, 0.35, 0.45], "bernoulli", 200, 100, 0),
    ]
    for seed, (name, means, kind, periods, batch, delay) in enumerate(cases):
        history = thompson(
            means, kind=kind, periods=periods, batch=batch, runs=runs, seed=190 + seed, delay=delay
        )
        figures = bandit_figures(history, means, kind=kind)
        limit = error_limit(runs, ALPHA)
        yield at_least(f"V10 coverage of the difference, {name}", figures.coverage, 0.95 - 0.0165)
        yield at_least(f"V10 coverage of the arm, {name}", figures.arm_coverage, 0.95 - 0.0165)
        yield at_most(
            f"V10 bias of the arm, {name}", abs(figures.bias), 0.015 if means[0] == means[1] else 0.03
        )
        yield at_most(f"V10 misses at any look, {name}", figures.anytime_misses, limit)
        if kind == "normal":
            looks = range(100, periods + 1, 100)
            misses = aipw_sequence_misses(history, means, looks=looks, pulls_min=adaptive.SEQUENCE_PULLS_MIN)
            yield at_most(f"V10 AIPW sequence misses at any look, {name}", misses, limit)
    few = max(runs // 10, 20)
    history = thompson([0.1, 0.11], kind="bernoulli", periods=200, batch=100, runs=few, seed=199)
    misses = importance_misses(history, [0.1, 0.11], looks=range(20, 201, 20))
    yield at_most("V10 importance-weighted Bernstein misses", misses, error_limit(few, ALPHA))


def planned_rows(*, full: bool) -> Iterator[Row]:
    for seed, spending in enumerate(("obrien-fleming", "pocock")):
        for looks in (5, 10, 20):
            measured = group_sequential_rejections(spending, looks, runs=10_000, seed=145 + seed)
            yield within(f"V2 {spending} K={looks}", measured, 0.0443, 0.0569)
    means, ever = e_process(runs=20_000 if full else 2_000, seed=149)
    for n, (mean, se) in means.items():
        yield at_most(f"V4 mean e-process at {n}", mean, 1 + 3 * se)
    yield at_most("V4 P(ever reaches 20)", ever, 0.0655)


PARTS: Parts = {
    "sequential: even arms": even_arms_rows,
    "sequential: uneven arms": uneven_arms_rows,
    "sequential: one arm": one_arm_rows,
    "sequential: planned looks and e-processes": planned_rows,
    "sequential: horizon": horizon_rows,
    "sequential: SPRT": sprt_rows,
    "sequential: counts": count_rows,
    "sequential: bandits": bandit_rows,
}
