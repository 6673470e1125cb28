"""Power and errors of four methods on 0.30 against 0.36, 10,000 units looked at 100 times.

| method | allocation | rule |
|---|---|---|
| Wald | Thompson sampling, floor 5 % or 20 % | sequence within strata of shares |
| fixed split | 50 / 50 | sequence of the difference of means |
| GrowthBook | Thompson sampling, the same floor | means per period, weighted by its units |
| naive | Thompson sampling, the same floor | Welch's test on totals at every look |

GrowthBook's bandits weigh the mean of a variant in each period by the units of all variants there,
and judge variants by normal posteriors (`gbstats/bayesian/bandits.py`; the periods are reduced in
its SQL). Its prior is so wide that a 95 % credible interval equals the interval of one look. A rule
decides if its interval excludes 0 at any look. Errors are those of equal variants whose rate is
0.3, or rises from 0.3 to 0.6.

    python -m benchmarks.power_under_bandits [--runs N]
"""

import argparse
from typing import Final

import numpy as np
from scipy import special

from benchmarks import harness
from benchmarks.calibrate_adaptive import (
    TUNED,
    Flags,
    Setting,
    Simulation,
    Sums,
    _figures,
    bernoulli,
)
from benchmarks.validity import ALPHA, generator
from stats import mixture
from stats.concurrent import ARM_UNITS_MIN
from stats.totals import FloatArray

EFFECT: Final = 0.06 / 0.7
"""Part of the failures that succeed under the treatment: it raises a rate of 0.30 to 0.36."""
_Z: Final = -float(special.ndtri(ALPHA / 2))


def by_growthbook(sums: Sums) -> Flags:
    """Return the runs in which period-weighted means differ at any look."""
    n, value, squares = (
        np.diff(column[..., :2].sum(axis=-2), axis=0, prepend=0.0)
        for column in (sums.n, sums.values[0], sums.products[0])
    )
    units = n.sum(axis=-1, keepdims=True)
    both = (n > 1).all(axis=-1, keepdims=True)
    weight = np.where(both, units, 0.0)
    mean = value / np.maximum(n, 1)
    variance = np.maximum(squares / np.maximum(n, 1) - mean**2, 0.0) / np.maximum(n, 1)
    total = np.maximum(weight.cumsum(axis=0), 1)
    means = (weight * mean).cumsum(axis=0) / total
    variances = (weight**2 * variance).cumsum(axis=0) / total**2
    return _differs(means, variances, n.cumsum(axis=0).min(axis=-1))


def by_totals(sums: Sums) -> Flags:
    """Return the runs in which Welch's test on totals over all time differs at any look."""
    n, value, squares = (
        column[..., :2].sum(axis=-2) for column in (sums.n, sums.values[0], sums.products[0])
    )
    mean = value / np.maximum(n, 1)
    variances = np.maximum(squares / np.maximum(n, 1) - mean**2, 0.0) / np.maximum(n, 1)
    return _differs(mean, variances, n.min(axis=-1))


def _differs(means: FloatArray, variances: FloatArray, least: FloatArray) -> Flags:
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (means[..., 1] - means[..., 0]) / np.sqrt(variances.sum(axis=-1))
    return np.asarray(((np.abs(z) > _Z) & (least >= ARM_UNITS_MIN)).any(axis=0))


def by_fixed_split(*, effect: float, drift: str, runs: int, seed: int) -> Flags:
    """Return the runs in which the sequence of a fixed even split excludes 0 at any look."""
    rng, setting = generator(seed), Setting(drift=drift)
    rates = 0.3 * (1 + setting.levels).reshape(100, -1).mean(axis=1)
    arms = np.stack([rates, rates + effect * (1 - rates)], axis=-1)
    n = 50.0 * np.arange(1, 101)
    mean = rng.binomial(50, arms, (runs, 100, 2)).cumsum(axis=1) / n[:, None]
    variance = (mean * (1 - mean)).sum(axis=-1) / n
    time = n / 2
    score = (mean[..., 1] - mean[..., 0]) / np.sqrt(variance) * np.sqrt(time)
    log_e = mixture.log_mixture(score, time, rho=mixture.tuned(2_500, alpha=ALPHA))
    return np.asarray(((log_e > -np.log(ALPHA)) & (n >= ARM_UNITS_MIN)).any(axis=1))


def rates_of(setting: Setting, *, runs: int, seed: int) -> dict[str, float]:
    """Return how often each method decides under a bandit."""
    rng = generator(seed)
    parts: dict[str, list[Flags]] = {"Wald": [], "GrowthBook": [], "naive": []}
    for first in range(0, runs, 100):
        sums = Simulation(setting, bernoulli(0.3), min(100, runs - first), rng).sums()
        parts["Wald"].append(_figures(sums, setting, events=True, truth=0.0)[0])
        parts["GrowthBook"].append(by_growthbook(sums))
        parts["naive"].append(by_totals(sums))
    return {name: float(np.concatenate(flags).mean()) for name, flags in parts.items()}


def table(runs: int) -> list[list[str]]:
    """Return a row per method and floor: decided with an effect, wrong at rest and under drift."""
    rows: list[list[str]] = []
    for number, floor in enumerate((0.05, 0.2)):
        rest = Setting(floor=floor)
        cases = (rest._replace(effect=EFFECT), rest, rest._replace(drift="drift"))
        columns = [rates_of(case, runs=runs, seed=2_700 + 10 * number + k) for k, case in enumerate(cases)]
        for method in columns[0]:
            rates = [f"{column[method]:.3f}" for column in columns]
            rows.append([method, f"{floor:.0%}", *rates])
    cases_of_split = ((EFFECT, "constant"), (0.0, "constant"), (0.0, "drift"))
    split = [
        by_fixed_split(effect=effect, drift=drift, runs=runs, seed=2_730 + k).mean()
        for k, (effect, drift) in enumerate(cases_of_split)
    ]
    return [*rows, ["fixed split", "even", *(f"{rate:.3f}" for rate in split)]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=400)
    n_runs = parser.parse_args().runs
    harness.show(
        f"0.30 against 0.36, 10,000 units, 100 looks, {n_runs:,} runs, tuned to {TUNED:.0%} of the units",
        ["method", "floor", "decided", "wrong, constant", "wrong, 0.3 to 0.6"],
        table(n_runs),
    )
