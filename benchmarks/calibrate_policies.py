"""Calibration of policies: what they lose while they learn, and what another one would have earned.

Regret is that of Thompson sampling with the uniform prior. Off-policy estimates are made from synthetic logs
of ten arms, whose truth is known for the very contexts of each log, and from a real one, where those of
another library are known.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import special

from bandits.environments import Stationary
from bandits.evaluation import Served, cross_fitted, doubly_robust, ips, self_normalised
from bandits.features import UNIT
from bandits.pulls import FromTotals, Policy, thompson_pulls
from bandits.simulation import simulate
from benchmarks.validity import Parts, Row, Simulated, at_least, at_most, generator

# --- Off-policy evaluation ---

ARMS = 10
SHARPNESS = {"even": 0.0, "soft": 4.0, "sharp": 10.0}
"""How strongly the policies to be evaluated prefer arms with a higher mean."""


class World(NamedTuple):
    """Means of ten arms are logistic in five features, and so are the shares of the policy that logged."""

    means: np.ndarray
    logging: np.ndarray

    def log(self, n: int, rng: np.random.Generator, sharpness: float) -> tuple[Served, np.ndarray, float]:
        """Rows with the shares of the policy in question, their contexts, and what it would have earned."""
        features = np.column_stack([np.ones(n), rng.normal(size=(n, 4))])
        contexts = np.rint(features.clip(-8, 8) * UNIT).astype(np.int64)
        means = special.expit(contexts / UNIT @ self.means.T)
        shares = 0.5 * special.softmax(contexts / UNIT @ self.logging.T, axis=1) + 0.5 / ARMS
        arms = (rng.random((n, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(max=ARMS - 1)
        row = np.arange(n)
        rewards = (rng.random(n) < means[row, arms]).astype(float)
        targets = special.softmax(sharpness * means, axis=1)
        served = Served(arms, rewards, shares[row, arms], targets)
        return served, contexts, float((targets * means).sum(axis=1).mean())


class Evaluated(NamedTuple):
    """Errors of IPS, SNIPS and DR and whether their intervals cover, shape (logs, 3); effective rows per log.

    `poor` are the logs with fewer than 100 effective rows, or one with more than a tenth of all weight;
    `unwarned` those of them of which nothing was said.
    """

    errors: np.ndarray
    covered: np.ndarray
    self_normalised: np.ndarray
    effective: np.ndarray
    poor: int
    unwarned: int


def evaluated(
    sharpness: float, *, logs: int, seed: int, forget: bool = False, silent: bool = False
) -> Evaluated:
    """Of `logs` logs of 1,000 rows.

    `forget` plants a bug: all propensities are taken for even ones; `silent` another: nobody is warned.
    """
    rng = generator(seed)
    world = World(rng.normal(0, 0.5, (ARMS, 5)) - 0.3, rng.normal(0, 0.5, (ARMS, 5)))
    errors, covered, normalised, effective = [], [], [], []
    poor = unwarned = 0
    for _ in range(logs):
        served, contexts, truth = world.log(1_000, rng, sharpness)
        if forget:
            even = np.full(len(served.arms), 1 / ARMS)
            served = Served(served.arms, served.rewards, even, served.targets)
        totals = served.totals
        found = (ips(totals), self_normalised(totals), doubly_robust(served, cross_fitted(contexts, served)))
        overlap = found[0].overlap
        if overlap.effective_rows < 100 or float(served.weights.max() / served.weights.sum()) > 0.1:
            poor, unwarned = poor + 1, unwarned + (silent or not overlap.warnings)
        errors.append([one.value - truth for one in found])
        covered.append([one.interval.lower <= truth <= one.interval.upper for one in found])
        normalised.append(found[1].value)
        effective.append(overlap.effective_rows)
    return Evaluated(
        np.array(errors), np.array(covered), np.array(normalised), np.array(effective), poor, unwarned
    )


def evaluation_rows(*, full: bool) -> Iterator[Row]:
    logs, least = (1_000, 0.92) if full else (24, 0.62)
    for seed, (policy, sharpness) in enumerate(SHARPNESS.items()):
        found = evaluated(sharpness, logs=logs, seed=300 + seed)
        # A bias in standard errors has a standard error of one.
        bias = np.abs(found.errors.mean(axis=0)) / (found.errors.std(axis=0) / math.sqrt(logs))
        outside = (found.self_normalised < 0) | (found.self_normalised > 1)
        enough = found.effective >= 100
        yield at_most(f"V18 IPS bias in standard errors, {policy} policy", Simulated(bias[0], 1.0), 3)
        yield at_most(f"V18 DR bias in standard errors, {policy} policy", Simulated(bias[2], 1.0), 3)
        share = Simulated.share(outside.mean(), logs)
        yield at_most(f"V18 SNIPS outside [0, 1], {policy} policy", share, 0)
        yield at_most(f"V18 error of DR over that of IPS, {policy} policy", relative_error(found.errors), 1)
        for column, name in enumerate(("IPS", "SNIPS", "DR")):
            covered = Simulated.share(found.covered[enough, column].mean(), int(enough.sum()))
            yield at_least(
                f"V18 coverage of {name} from 100 effective rows on, {policy} policy", covered, least
            )
    found = evaluated(100.0, logs=logs, seed=303)
    name = f"V18 logs without a warning, of {found.poor} with little overlap, greediest policy"
    yield at_most(name, found.unwarned, 0)


def relative_error(errors: np.ndarray) -> Simulated:
    """Root mean square of the last column over that of the first, its error by the delta method."""
    squares = errors[:, [0, -1]] ** 2
    ips_mean, robust_mean = squares.mean(axis=0)
    ratio = math.sqrt(robust_mean / ips_mean)
    spread = (squares[:, 1] / robust_mean - squares[:, 0] / ips_mean).std() / math.sqrt(len(errors))
    return Simulated(ratio, 0.5 * ratio * float(spread))


OPEN_BANDIT = Path(__file__).with_name("data") / "open_bandit.csv"
"""10,000 recommendations of 34 items by a Thompson policy that really ran; see the README beside it."""
# obp 0.4.1: InverseProbabilityWeighting, SelfNormalizedInverseProbabilityWeighting and DoublyRobust of the
# policy that shows every item equally often, with (clicks + 1) / (shown + 100) of the item as the model of
# its clicks; the effective rows are (sum w)^2 / sum w^2.
OBP = {
    "IPS": 0.003008626327256482,
    "SNIPS": 0.0031894231622774027,
    "DR": 0.0033549380958788483,
    "effective rows": 655.7098495873269,
}


def on_open_bandit(*, forget: bool = False) -> dict[str, float]:
    """The same figures by our estimators; `forget` plants a bug: propensities are taken for even ones."""
    items, clicks, propensities = np.loadtxt(OPEN_BANDIT, delimiter=",", skiprows=1, unpack=True)
    arms, n_arms = items.astype(np.int64), int(items.max()) + 1
    shown, clicked = np.bincount(arms), np.bincount(arms, weights=clicks)
    targets = np.full((len(arms), n_arms), 1 / n_arms)
    served = Served(arms, clicks, np.full(len(arms), 1 / n_arms) if forget else propensities, targets)
    predictions = np.broadcast_to((clicked + 1) / (shown + 100), targets.shape)
    found = ips(served.totals)
    return {
        "IPS": found.value,
        "SNIPS": self_normalised(served.totals).value,
        "DR": doubly_robust(served, predictions).value,
        "effective rows": found.overlap.effective_rows,
    }


def real_log_rows(*, full: bool) -> Iterator[Row]:
    del full  # Computed, not simulated.
    for name, value in on_open_bandit().items():
        row = f"V19 {name} of the even policy on Open Bandit Data: off obp's by"
        yield at_most(row, abs(value / OBP[name] - 1), 1e-6)
    yield at_most("V19 IPS, SNIPS, DR against sums over rows: relative", largest_difference(310), 1e-6)


def largest_difference(seed: int) -> float:
    """Of the three estimates of one log and the same formulas written as loops, relative."""
    rng = generator(seed)
    world = World(rng.normal(0, 0.5, (ARMS, 5)) - 0.3, rng.normal(0, 0.5, (ARMS, 5)))
    served, contexts, _ = world.log(1_000, rng, 6.0)
    q = cross_fitted(contexts, served)
    plain = weights = robust = 0.0
    for row, arm in enumerate(served.arms.tolist()):
        weight = float(served.targets[row, arm]) / float(served.propensities[row])
        plain += weight * float(served.rewards[row])
        weights += weight
        model = sum(float(served.targets[row, a]) * float(q[row, a]) for a in range(ARMS))
        robust += model + weight * (float(served.rewards[row]) - float(q[row, arm]))
    n = len(served.arms)
    pairs = (
        (ips(served.totals).value, plain / n),
        (self_normalised(served.totals).value, plain / weights),
        (doubly_robust(served, q).value, robust / n),
    )
    return max(abs(ours / theirs - 1) for ours, theirs in pairs)


# --- Regret ---


def regret(
    means: tuple[float, ...], *, rounds: int, batch: int, runs: int, seed: int, policy: Policy | None = None
) -> Simulated:
    """Mean regret at the end; of Thompson sampling unless another policy is planted."""
    chosen = policy or FromTotals(thompson_pulls)
    found = simulate(Stationary(means), chosen, rounds=rounds, batch=batch, runs=runs, rng=generator(seed))
    return Simulated.mean(found.final)


TEN_ARMS = (0.1, *[0.05] * 3, *[0.02] * 3, *[0.01] * 3)
REGRETS = {
    "0.5, 0.6; 10,000 rounds": ((0.5, 0.6), 10_000, 18.7),
    "10 arms; 20,000 rounds": (TEN_ARMS, 20_000, 88.7),
    "0.10, 0.11; 20,000 rounds": ((0.10, 0.11), 20_000, 37.3),
}
BATCHED = {1: 70.0, 100: 65.0, 1_000: 57.0, 10_000: 78.0}
"""Regret of 0.10 against 0.11 after 100,000 rounds, by the size of the batch; an even split loses 500."""


def regret_rows(*, full: bool) -> Iterator[Row]:
    runs = 500 if full else 100
    for seed, (name, (means, rounds, anchor)) in enumerate(REGRETS.items(), start=320):
        # At a tenth of the size: the first of them, in batches that change nothing.
        if full or seed == 320:
            measured = regret(means, rounds=rounds, batch=1 if full else 10, runs=runs, seed=seed)
            limit = 1.15 * anchor + (0 if full else 5 * measured.error)
            yield at_most(f"V20 regret of Thompson, {name}", measured, limit)


def batch_rows(*, full: bool) -> Iterator[Row]:
    runs = 500 if full else 40
    for seed, (batch, anchor) in enumerate(BATCHED.items(), start=330):
        # At a tenth of the size: the largest batch, with room for chance.
        if full or batch == 10_000:
            measured = regret((0.10, 0.11), rounds=100_000, batch=batch, runs=runs, seed=seed)
            limit = 1.15 * anchor + (0 if full else 5 * measured.error)
            yield at_most(f"V21 regret of Thompson in batches of {batch:,}", measured, limit)


PARTS: Parts = {
    "V18: off-policy evaluation": evaluation_rows,
    "V19: a real log": real_log_rows,
    "V20: regret": regret_rows,
    "V21: regret in batches": batch_rows,
}
