"""Calibration under a bandit: inference from what it allocated."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.validity import ALPHA, Parts, Row, Simulated, at_least, at_most, error_limit, generator
from stats import adaptive, bounded, mixture, sequences


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
    """Of the difference of the last arm and the first; bias and coverage of the first arm, the lower one.

    Coverage at the end is that of the runs that have an estimate: each arm was pulled often enough.
    """

    coverage: Simulated
    naive_coverage: Simulated
    bias: Simulated
    naive_bias: Simulated
    arm_coverage: Simulated
    anytime_misses: Simulated
    naive_anytime_misses: Simulated


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
        _share((np.abs(value - truth) <= 1.96 * np.sqrt(variance))[answered]),
        _share(np.abs(naive_z[:, -1]) <= 1.96),
        Simulated.mean(mean - mu[0]),
        Simulated.mean(averages[:, -1, 0] - mu[0]),
        _share((np.abs(mean - mu[0]) <= 1.96 * np.sqrt(arm_variance))[answered]),
        _share((missed & (pulls.min(axis=2) > 0)).any(axis=1)),
        _share((late & (np.abs(naive_z) > 1.96)).any(axis=1)),
    )


def _share(hits: np.ndarray) -> Simulated:
    return Simulated.share(hits.mean(), len(hits))


def even_arm(arm: adaptive.ArmArrays, n_arms: int) -> adaptive.ArmArrays:
    """The same pulls and rewards, with the weights of an even split."""
    w = arm.propensity * n_arms
    fields = (arm.weight, arm.weight_squares, arm.reward, arm.reward_weight_squares, arm.reward_squares)
    powers = (1, 2, 1, 2, 2)
    weighted = (field * w**power for field, power in zip(fields, powers, strict=True))
    return adaptive.ArmArrays(arm.assigned, np.full_like(w, 1 / n_arms), arm.pulls, *weighted)


def importance_misses(
    history: History, means: list[float], *, looks: Iterable[int], position: int = 0, forget: bool = False
) -> Simulated:
    """Share of histories in which `importance_sequence` of one arm misses at any of these periods.

    `forget` plants a fault: the propensities logged are even ones, whatever was drawn with.
    """
    arm, truth, misses = history.arms[position], means[position], 0
    if forget:
        arm = even_arm(arm, len(means))
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
    return Simulated.share(misses / len(history.pulls), len(history.pulls))


class Setting(NamedTuple):
    """What Thompson sampling meets: `batch` assignments a period, rewards `delay` periods late."""

    name: str
    means: list[float]
    kind: str
    periods: int
    batch: int
    delay: int = 0


def settings() -> Iterator[Setting]:
    """Two normal arms one by one; three sets of rates, one by one, in batches, and with late rewards."""
    yield Setting("normal 0/0", [0.0, 0.0], "normal", 2_000, 1)
    yield Setting("normal 0/0.2", [0.0, 0.2], "normal", 2_000, 1)
    for means in ([0.1, 0.1], [0.1, 0.11], [0.3, 0.35, 0.45]):
        rates = "/".join(f"{mean:g}" for mean in means)
        yield Setting(f"{rates} each", means, "bernoulli", 2_000, 1)
        yield Setting(f"{rates} batches of 100", means, "bernoulli", 200, 100)
        yield Setting(f"{rates} batches of 100, rewards 10 late", means, "bernoulli", 200, 100, delay=10)
        yield Setting(f"{rates} batches of 10,000", means, "bernoulli", 10, 10_000)


def bandit_rows(*, full: bool) -> Iterator[Row]:
    runs = 2_000 if full else 200
    limit = error_limit(runs, ALPHA)
    # At full size the text's own limit, which is the exact one rounded down.
    least = 0.9335 if full else 1 - error_limit(runs, ALPHA, 1e-6)
    for seed, (name, means, kind, periods, batch, delay) in enumerate(settings(), start=190):
        history = thompson(means, kind=kind, periods=periods, batch=batch, runs=runs, seed=seed, delay=delay)
        figures = bandit_figures(history, means, kind=kind)
        yield at_least(f"V10 coverage of the difference, {name}", figures.coverage, least)
        yield at_least(f"V10 coverage of the arm, {name}", figures.arm_coverage, least)
        bias = Simulated(abs(figures.bias.value), figures.bias.error)
        yield at_most(f"V10 bias of the arm, {name}", bias, 0.015 if means[0] == means[-1] else 0.03)
        yield at_most(f"V10 misses at any look, {name}", figures.anytime_misses, limit)
    history = thompson([0.1, 0.11], kind="bernoulli", periods=200, batch=100, runs=runs, seed=189)
    misses = importance_misses(history, [0.1, 0.11], looks=range(20, 201, 20))
    yield at_most("V10 importance-weighted Bernstein misses", misses, limit)


PARTS: Parts = {"section 5, V10: Thompson sampling": bandit_rows}
