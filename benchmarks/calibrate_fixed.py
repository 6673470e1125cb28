"""Validity of the fixed-horizon methods: measured error rates, coverage and power beside their thresholds.

With `full=True` a part has the sizes of the validity table; `full=False` is for tests: its limits are exact
binomial ones that a correct method misses with probability below 1e-6. The simulations take the method under
test, so that a wrong one can be planted. `benchmarks/calibrate.py` prints the table.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from scipy import stats as scipy_stats
from scipy.signal import lfilter

from benchmarks.validity import Parts, Row, Simulated, around, generator, within
from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.means import mean, mean_difference
from stats.multiplicity import Correction, family_level
from stats.planning import MeanOutcome, Plan, ProportionOutcome, RatioOutcome, sample_size
from stats.prediction_powered import JudgedTotals, prediction_powered_mean
from stats.proportions import score_interval, score_test
from stats.quantiles import QuantileSketch, quantile_difference_interval
from stats.ratios import ratio_parts, with_covariates
from stats.seasonality import fit_baseline
from stats.totals import JointTotals, MeanTotals, ProportionTotals
from stats.variance_reduction import CovariateAdjustment, regression_adjustment

Adjusted = Callable[[JointTotals, JointTotals], Estimate]

# V13, V14: no effect


def mean_p_values(draw: Callable[[np.random.Generator, int], np.ndarray], n: int, runs: int, seed: int):
    rng = generator(seed)
    p_values = []
    for _ in range(runs):
        arms = [MeanTotals.from_observations(draw(rng, n)) for _ in range(2)]
        p_values.append(mean_difference(*arms).test().p_value)
    return np.array(p_values)


def proportion_p_values(rate: float, n: int, runs: int, seed: int):
    successes = generator(seed).binomial(n, rate, size=(runs, 2)).tolist()
    p_values = []
    for x, y in successes:
        try:
            p_values.append(score_test(ProportionTotals(n, x), ProportionTotals(n, y)).p_value)
        except InsufficientData:
            p_values.append(1.0)
    return np.array(p_values)


def sessions(rng: np.random.Generator, n: int) -> np.ndarray:
    """(clicks, sessions) of n users: sessions and rates of clicks differ between users."""
    count = 1 + rng.poisson(rng.gamma(0.5, 6.0, size=n))
    return np.stack((rng.binomial(count, rng.beta(1.2, 4.8, size=n)), count), axis=1).astype(np.float64)


def clustered(treatment: JointTotals, control: JointTotals) -> Estimate:
    return mean_difference(ratio_parts(treatment), ratio_parts(control))


def as_if_independent(treatment: JointTotals, control: JointTotals) -> Estimate:
    """The planted bug: clicks as binomial among sessions."""
    parts = []
    for arm in (treatment, control):
        rate, total = arm.mean[0] / arm.mean[1], arm.n * arm.mean[1]
        parts.append((rate, rate * (1 - rate) / total))
    return Estimate(parts[0][0] - parts[1][0], math.sqrt(parts[0][1] + parts[1][1]))


def ratio_rejections(method: Callable[[JointTotals, JointTotals], Estimate], runs: int, seed: int) -> float:
    rng = generator(seed)
    hits = 0
    for _ in range(runs):
        arms = [JointTotals.from_observations(sessions(rng, 500)) for _ in range(2)]
        hits += method(*arms).test().p_value < 0.05
    return hits / runs


def aa_rows(*, full: bool) -> Iterator[Row]:
    runs = 10_000 if full else 800
    limits = (0.0443, 0.0569)

    def gate(name: str, share: float) -> Row:
        return (
            within(name, Simulated.share(share, runs), *limits) if full else around(name, share, 0.05, runs)
        )

    normal = mean_p_values(lambda rng, n: rng.normal(size=n), 100, runs, 1)
    yield gate("V13 A/A Welch, normal, share p < .05", float((normal < 0.05).mean()))
    uniform = float(scipy_stats.kstest(normal, "uniform").pvalue)
    yield within("V13 A/A Welch, normal, KS p", uniform, 0.001 if full else 1e-6, 1.0)
    yield gate(
        "V13 A/A score z, 5 % of 10,000", float((proportion_p_values(0.05, 10_000, runs, 2) < 0.05).mean())
    )
    floors = [(0.5, 200, 0.055), (1.0, 200, 0.049), (1.5, 200, 0.041), (2.0, 200, 0.030)]
    for at, (sigma, n, anchor) in enumerate(floors + ([(2.0, 2000, 0.040)] if full else [])):
        draws = mean_p_values(lambda rng, n, s=sigma: rng.lognormal(sigma=s, size=n), n, runs, 10 + at)
        slack = 0.009 if full else 0.03
        share = float((draws < 0.05).mean())
        name = f"V13 noise floor, lognormal sigma {sigma:g}, n {n}"
        yield within(name, Simulated.share(share, runs), anchor - slack, anchor + slack)
    for at, (rate, n, anchor) in enumerate([(0.001, 1_000, 0.014), (0.01, 1_000, 0.052)]):
        share = float((proportion_p_values(rate, n, runs, 20 + at) < 0.05).mean())
        slack = 0.009 if full else 0.03
        name = f"V13 noise floor, proportion {rate:g} of {n}"
        yield within(name, Simulated.share(share, runs), anchor - slack, anchor + slack)
    yield gate("V14 A/A ratio, delta method", ratio_rejections(clustered, runs, 3))


# Coverage of the other intervals


def cuped(treatment: JointTotals, control: JointTotals) -> Estimate:
    adjustment = CovariateAdjustment.fit([treatment, control])
    assert adjustment is not None
    return mean_difference(adjustment.apply(treatment), adjustment.apply(control))


def regressed(treatment: JointTotals, control: JointTotals) -> Estimate:
    return regression_adjustment(treatment, control).effect


def adjusted_coverage(adjust: Adjusted, runs: int, seed: int, *, times: int = 1) -> float:
    """Of an adjusted difference of 0. Every unit counts so many `times`: the planted bug is three."""
    rng = generator(seed)
    covered = 0
    for _ in range(runs):
        arms = []
        for n, slope in ((60, 1.5), (240, 0.5)):
            x = rng.normal(size=n)
            values = np.stack((slope * x + rng.normal(size=n), x), axis=1)
            arms.append(JointTotals.from_observations(np.repeat(values, times, axis=0)))
        interval = adjust(*arms).interval(alpha=0.05)
        covered += interval.lower <= 0 <= interval.upper
    return covered / runs


def adjusted_ratio_coverage(runs: int, seed: int, *, times: int = 1) -> float:
    """Of an effect of 0 on a ratio, adjusted by the delta method; `times` as in `adjusted_coverage`."""
    rng = generator(seed)
    covered = 0
    for _ in range(runs):
        arms = []
        for n in (60, 240):
            x, seen = rng.normal(size=n), 1.0 + rng.poisson(3.0, n)
            clicks = rng.binomial(seen.astype(int), np.clip(0.4 + 0.15 * x, 0.0, 1.0))
            rows = np.repeat(np.stack((clicks, seen, x), axis=1), times, axis=0)
            arms.append(with_covariates(JointTotals.from_observations(rows)))
        interval = cuped(*arms).interval(alpha=0.05)
        covered += interval.lower <= 0 <= interval.upper
    return covered / runs


def quantile_coverage(runs: int, seed: int, *, times: int = 1) -> float:
    """Of a difference of 0 between 95th percentiles; `times` as in `adjusted_coverage`."""
    rng = generator(seed)
    covered = 0
    for _ in range(runs):
        values = (np.repeat(rng.lognormal(size=600), times) for _ in range(2))
        arms = [QuantileSketch.from_observations(one, accuracy=0.005) for one in values]
        interval = quantile_difference_interval(*arms, 0.95, alpha=0.05)
        covered += interval.lower <= 0 <= interval.upper
    return covered / runs


def score_coverage(runs: int, seed: int, *, times: int = 1) -> float:
    """Of the difference of .2 and .1; `times` as in `adjusted_coverage`."""
    covered = 0
    for x, y in generator(seed).binomial((50, 80), (0.2, 0.1), size=(runs, 2)).tolist():
        arms = ProportionTotals(50 * times, x * times), ProportionTotals(80 * times, y * times)
        interval = score_interval(*arms, alpha=0.05)
        covered += interval.lower <= 0.1 <= interval.upper
    return covered / runs


def least_coverage(runs: int) -> float:
    """What 95 % do not fall short of, but once in a million times."""
    return float(scipy_stats.binom.ppf(1e-6, runs, 0.95)) / runs


def coverage_rows(*, full: bool) -> Iterator[Row]:
    runs = 10_000 if full else 200
    adjustments: dict[str, Adjusted] = {"CUPED": cuped, "regression adjustment": regressed}
    for name, adjust in adjustments.items():
        covered = adjusted_coverage(adjust, runs, 30)
        of = f"coverage of {name}, 60 and 240 units, slopes 1.5 and .5"
        yield (
            within(of, Simulated.share(covered, runs), 0.9427, 0.957)
            if full
            else around(of, covered, 0.95, runs)
        )
    covered = adjusted_ratio_coverage(runs, 33)
    of = "coverage of CUPED on a ratio, 60 and 240 units"
    yield (
        within(of, Simulated.share(covered, runs), 0.935, 0.957) if full else around(of, covered, 0.95, runs)
    )
    least = 0.9427 if full else least_coverage(runs)
    covered = Simulated.share(quantile_coverage(runs, 31), runs)
    yield within("coverage of the difference of p95, lognormal, 600 each", covered, least, 1.0)
    covered = Simulated.share(score_coverage(runs, 32), runs)
    yield within("coverage of the score interval, .2 of 50 and .1 of 80", covered, least - 0.005, 1.0)


# V12: many metrics


def family_errors(
    level_of: Callable[[Sequence[float]], float],
    shifted: int,
    correlation: float,
    runs: int,
    seed: int,
) -> tuple[Simulated, Simulated, Simulated]:
    """False discovery rate, probability of any false finding, and power, of 100 two-sided z tests at .05."""
    rng = generator(seed)
    shift = np.zeros(100)
    shift[:shifted] = 3.0
    common = rng.normal(size=(runs, 1)) * math.sqrt(abs(correlation))
    # A negative block: half of the metrics move against the other half.
    sign = np.where(np.arange(100) % 2, 1.0, -1.0) if correlation < 0 else np.ones(100)
    z = common * sign + rng.normal(size=(runs, 100)) * math.sqrt(1 - abs(correlation)) + shift
    p_values = 2 * scipy_stats.norm.sf(np.abs(z))
    rates = []
    for row in p_values:
        found = row < level_of(row)
        false = int(found[shifted:].sum())
        rates.append(
            (false / max(int(found.sum()), 1), false > 0, found[:shifted].mean() if shifted else 0.0)
        )
    rate, any_false, power = (Simulated.mean(column) for column in zip(*rates, strict=True))
    return rate, any_false, power


def level_of_p_values(p_values: Sequence[float], *, correction: Correction) -> float:
    """The level of a family at alpha .05 whose intervals are those of tests with these p-values."""
    return family_level([float(p_value).__lt__ for p_value in p_values], 0.05, correction)


def family_rows(*, full: bool) -> Iterator[Row]:
    runs = 5_000 if full else 500
    slack = 0.0 if full else 0.02

    bh = partial(level_of_p_values, correction="benjamini-hochberg")
    by = partial(level_of_p_values, correction="benjamini-yekutieli")
    bonferroni = partial(level_of_p_values, correction="bonferroni")
    fdr, _, power = family_errors(bh, 10, 0.0, runs, 40)
    yield within("V12 BH false discovery rate", fdr, 0.0, 0.0495 + slack)
    yield within("V12 BH power (anchor .506)", power, 0.506 - 0.03, 0.506 + 0.03)
    fdr, _, power = family_errors(by, 10, 0.0, runs, 41)
    yield within("V12 BY false discovery rate (anchor .009)", fdr, 0.0, 0.014 + slack)
    yield within("V12 BY power (anchor .278)", power, 0.278 - 0.03, 0.278 + 0.03)
    _, fwer, power = family_errors(bonferroni, 10, 0.0, runs, 42)
    yield within("V12 Bonferroni family-wise error (anchor .043)", fwer, 0.0, 0.0569 + slack)
    yield within("V12 Bonferroni power (anchor .316)", power, 0.316 - 0.03, 0.316 + 0.03)
    _, fwer, _ = family_errors(bh, 0, 0.0, runs, 43)
    yield within("V12 BH, no effect, any finding", fwer, 0.040 - slack, 0.062 + slack)
    fdr, _, _ = family_errors(bh, 10, 0.5, runs, 44)
    yield within("V12 BH, correlation .5, false discovery rate", fdr, 0.0, 0.055 + slack)
    fdr, _, _ = family_errors(by, 10, -0.5, runs, 45)
    yield within("V12 BY, negative block, false discovery rate", fdr, 0.0, 0.055)


# Power and duration


PLANS: tuple[tuple[Plan, float], ...] = (
    (Plan(ProportionOutcome(0.10), 0.05, 0.8), 0.01),
    (Plan(ProportionOutcome(0.50), 0.05, 0.8), 0.02),
    (Plan(ProportionOutcome(0.02), 0.05, 0.8), 0.01),
    (Plan(ProportionOutcome(0.30), 0.01, 0.8), -0.05),
    (Plan(ProportionOutcome(0.20), 0.05, 0.8, (0.8, 0.2)), 0.03),
    (Plan(ProportionOutcome(0.20), 0.05, 0.8, (0.4, 0.3, 0.3)), 0.05),
    (Plan(ProportionOutcome(0.90), 0.025, 0.8, margin=0.05), 0.0),
    (Plan(ProportionOutcome(0.70), 0.05, 0.8, margin=0.05), -0.01),
    (Plan(MeanOutcome(2.0), 0.05, 0.8), 0.2),
    (Plan(MeanOutcome(1.0), 0.05, 0.8, (0.9, 0.1)), 0.2),
    (Plan(MeanOutcome(1.0), 0.05, 0.8, variance_reduction=0.36), 0.15),
    (Plan(RatioOutcome(0.8, 4.0, 1.2, 3.5, 0.7), 0.05, 0.8), 0.03),
)


def simulated_power(plan: Plan, effect: float, runs: int, seed: int, scale: float = 1.0) -> float:
    """Share of experiments of `scale` times the planned size that find the effect of the last variant."""
    rng = generator(seed)
    sizes = sample_size(plan, effect).per_variant
    control, treatment = (math.ceil(scale * n) for n in (sizes[0], sizes[-1]))
    alpha = plan.alpha / plan.comparisons
    null, side = (-plan.margin, "greater") if plan.margin else (0.0, "two-sided")
    hits = 0
    if isinstance(plan.outcome, ProportionOutcome):
        base = plan.outcome.baseline
        for x, y in rng.binomial((treatment, control), (base + effect, base), size=(runs, 2)).tolist():
            arms = ProportionTotals(treatment, x), ProportionTotals(control, y)
            hits += score_test(*arms, null=null, alternative=side).p_value <= alpha
        return hits / runs
    for _ in range(runs):
        if isinstance(plan.outcome, MeanOutcome) and plan.variance_reduction:
            joint = []
            for n, shift in ((treatment, effect), (control, 0.0)):
                x = rng.normal(size=n)
                y = shift + 0.6 * x + 0.8 * rng.normal(size=n)
                joint.append(JointTotals.from_observations(np.stack((y, x), axis=1)))
            found = cuped(*joint)
        elif isinstance(plan.outcome, MeanOutcome):
            sd = plan.outcome.sd
            draws = (effect + sd * rng.normal(size=treatment), sd * rng.normal(size=control))
            found = mean_difference(*(MeanTotals.from_observations(draw) for draw in draws))
        else:
            found = clustered(
                ratio_units(rng, plan.outcome, treatment, effect),
                ratio_units(rng, plan.outcome, control, 0.0),
            )
        hits += found.test(null=null, alternative=side).p_value <= alpha
    return hits / runs


def ratio_units(rng: np.random.Generator, outcome: RatioOutcome, n: int, effect: float) -> JointTotals:
    """Pairs with the outcome's moments (a gamma denominator), whose ratio of means is moved by the effect."""
    shape = (outcome.denominator_mean / outcome.denominator_sd) ** 2
    y = rng.gamma(shape, outcome.denominator_mean / shape, size=n)
    slope = outcome.correlation * outcome.numerator_sd / outcome.denominator_sd
    rest = outcome.numerator_sd * math.sqrt(1 - outcome.correlation**2)
    x = outcome.numerator_mean + slope * (y - outcome.denominator_mean) + rest * rng.normal(size=n)
    return JointTotals.from_observations(np.stack((x + effect * y, y), axis=1))


def planning_rows(*, full: bool) -> Iterator[Row]:
    runs = 10_000 if full else 400
    for number, (plan, effect) in enumerate(PLANS):
        power = simulated_power(plan, effect, runs, 50 + number)
        name = f"V16 plan {number + 1}: {type(plan.outcome).__name__} effect {effect:g}"
        if full:
            yield within(name, Simulated.share(power, runs), 0.788, 0.812)
        else:
            yield around(name, power, 0.80, runs)
    units = sample_size(PLANS[0][0], PLANS[0][1]).per_variant[0]
    yield within("V16 units per variant to tell 10 % from 11 %", units, 14_750, 14_752)


# V17: a judge and few labels


def judged(rng: np.random.Generator, n: int, total: int, judge: tuple[float, float, float]) -> JudgedTotals:
    """Totals of binary labels and scores; judge = (sensitivity, 1 - specificity, true share)."""
    sensitivity, false_alarm, truth = judge
    labelled = rng.multinomial(
        n,
        [
            truth * sensitivity,
            truth * (1 - sensitivity),
            (1 - truth) * false_alarm,
            (1 - truth) * (1 - false_alarm),
        ],
    )
    both, human, score = int(labelled[0]), int(labelled[:2].sum()), int(labelled[0] + labelled[2])
    rate = truth * sensitivity + (1 - truth) * false_alarm
    scores = score + int(rng.binomial(total - n, rate))
    w = total // n
    # (a, a f, b, b y, c, c f) of `JudgedTotals` with a = 1 for all and b = c = w for the labelled.
    sums = [total, scores, w * n, w * human, w * n, w * score]
    products = [
        total,
        *(scores, scores),
        *(w * n, w * score, w**2 * n),
        *(w * human, w * both, w**2 * human, w**2 * human),
        *(w * n, w * score, w**2 * n, w**2 * human, w**2 * n),
        *(w * score, w * score, w**2 * score, w**2 * both, w**2 * score, w**2 * score),
    ]
    return JudgedTotals(JointTotals.from_sums(total, sums, products), n, total)


def judged_coverage(
    n: int, total: int, judge: tuple[float, float, float], runs: int, seed: int, trust: float | None = None
) -> tuple[Simulated, Simulated]:
    """Coverage of the 95 % interval, and its mean width over that of the labels alone.

    `trust` plants a judge that is believed that far.
    """
    rng = generator(seed)
    covered, ratios = 0, []
    for _ in range(runs):
        result = prediction_powered_mean(judged(rng, n, total, judge), trust=trust)
        interval, alone = result.mean.interval(alpha=0.05), result.labels_alone.interval(alpha=0.05)
        covered += interval.lower <= judge[2] <= interval.upper
        ratios.append((interval.upper - interval.lower) / (alone.upper - alone.lower))
    return Simulated.share(covered / runs, runs), Simulated.mean(ratios)


def judge_alone_coverage(
    n: int, total: int, judge: tuple[float, float, float], runs: int, seed: int
) -> float:
    """The planted bug: the judge's scores taken for labels."""
    rng = generator(seed)
    covered = 0
    for _ in range(runs):
        scores = judged(rng, n, total, judge).moments.value(1)
        interval = mean(scores).interval(alpha=0.05)
        covered += interval.lower <= judge[2] <= interval.upper
    return covered / runs


def gain(width: Simulated) -> Simulated:
    """How many times the labels would be as precise without the judge."""
    return Simulated(1 / width.value**2, 2 * width.error / width.value**3)


def judging_rows(*, full: bool) -> Iterator[Row]:
    runs = 4_000 if full else 200
    slack = 0.0 if full else 0.05
    good, coin, excellent = (0.90, 0.25, 0.72), (0.5, 0.5, 0.72), (0.95, 0.05, 0.5)
    covered, width = judged_coverage(100, 10_000, good, runs, 70)
    yield within("V17 PPI++ coverage, 100 labels of 10,000", covered, 0.925 - slack, 0.975 + slack)
    yield within("V17 PPI++ width / classical (anchor .756)", width, 0.0, 0.80)
    covered, width = judged_coverage(1_000, 100_000, good, runs, 71)
    yield within("V17 PPI++ coverage, 1,000 labels of 100,000", covered, 0.94 - slack, 0.965 + slack)
    yield within("V17 gain in labels (anchor 1.72)", gain(width), 1.65, 1.80)
    _, width = judged_coverage(100, 10_000, coin, runs, 72)
    yield within("V17 coin-flip judge, width / classical", width, 0.0, 1.02)
    _, width = judged_coverage(1_000, 100_000, excellent, runs, 73)
    yield within("V17 judge .95/.05, gain in labels (anchor 5.3)", gain(width), 4.7, 5.9)


# V22: dynamic thresholds


def autoregression(rng: np.random.Generator, n: int, rho: float) -> np.ndarray:
    shocks = rng.normal(size=n) * math.sqrt(1 - rho**2)
    shocks[0] /= math.sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], shocks)


Times = tuple[np.ndarray, np.ndarray]
"""Hours of the day, and days of the week."""
AHEAD = 20


def detrended(values: np.ndarray, known: Times, ahead: Times, rate: float) -> list[float]:
    baseline = fit_baseline(values, *known)
    times = zip(*(part.tolist() for part in ahead), strict=True)
    return [baseline.limits(*at, false_alarm=rate).lower for at in times]


def last_hours(values: np.ndarray, known: Times, ahead: Times, rate: float) -> list[float]:
    """The planted bug: mean - z sd of the last 12 hours, whatever the season."""
    del known
    limit = float(values[-12:].mean() + scipy_stats.norm.ppf(rate) * values[-12:].std(ddof=1))
    return [limit] * len(ahead[0])


def false_alarms(
    threshold: Callable[[np.ndarray, Times, Times, float], list[float]],
    rho: float,
    season: float,
    rate: float,
    runs: int,
    seed: int,
) -> Simulated:
    """Share of points, 1 to 20 hours after four weeks of hourly history, below the threshold."""
    rng, known = generator(seed), 24 * 28
    time = np.arange(known + AHEAD)
    hours, weekdays = time % 24, (time // 24) % 7
    shape = season * (np.sin(2 * np.pi * hours / 24) + 0.3 * (weekdays > 4))
    shares = []
    for _ in range(runs):
        values = shape + autoregression(rng, len(time), rho)
        before, after = ((hours[part], weekdays[part]) for part in (slice(known), slice(known, None)))
        shares.append((values[known:] < threshold(values[:known], before, after, rate)).mean())
    return Simulated.mean(shares)


def white_noise_alarms(n: int, points: int, seed: int) -> float:
    """Share of points below the mean less 3 sd of the n independent ones before each."""
    rng, alarms = generator(seed), 0
    for _ in range(0, points, 2_000):
        values = rng.normal(size=(2_000, n + 1))
        before = values[:, :-1]
        alarms += int((values[:, -1] < before.mean(axis=1) - 3 * before.std(axis=1, ddof=1)).sum())
    return alarms / points


def threshold_rows(*, full: bool) -> Iterator[Row]:
    for at, (n, anchor) in enumerate(((12, 0.0075), (60, 0.0021), (288, 0.0015))):
        # The new point errs by sd sqrt(1 + 1/n) around the mean of n: Student's t with n - 1 degrees.
        exact = float(scipy_stats.t.cdf(-3 / math.sqrt(1 + 1 / n), n - 1))
        yield within(f"V22 white noise, 3 sd of {n} points, exact", exact, anchor - 6e-5, anchor + 6e-5)
        points = 100_000 if full else 20_000
        yield around(
            f"V22 the same by simulation, {n} points", white_noise_alarms(n, points, 90 + at), exact, points
        )
    runs, rate = (5_000, 0.00135) if full else (150, 0.05)
    series = [(0.0, 0.0), (0.6, 0.0), (0.6, 3.0), (0.9, 3.0)]
    for at, (rho, season) in enumerate(series if full else series[-2:], start=0 if full else 2):
        alarms = false_alarms(detrended, rho, season, rate, runs, 80 + at)
        name = f"V22 false alarms per point, nominal {rate:g}, rho {rho:g}, season {season:g}"
        yield within(name, alarms, 0.0, 2 * rate)


PARTS: Parts = {
    "V13, V14: A/A": aa_rows,
    "coverage of other intervals": coverage_rows,
    "V12: many metrics": family_rows,
    "V16: plans": planning_rows,
    "V17: judges": judging_rows,
    "V22: thresholds": threshold_rows,
}
