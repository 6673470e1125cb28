"""Off-policy evaluation, by simulation and by a separate derivation."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from msgspec.structs import astuple
from scipy import special, stats

from bandits.evaluation import (
    Served,
    TooLittleOverlap,
    WeightTotals,
    anytime_interval,
    cross_fitted,
    doubly_robust,
    ips,
    self_normalised,
    self_normalised_doubly_robust,
)
from bandits.features import UNIT
from stats.errors import InsufficientData, InvalidInput


class World(NamedTuple):
    """Ten arms, contexts of five features, a soft logging policy; targets as sharp as is asked for."""

    theta: np.ndarray
    logging: np.ndarray

    def means(self, contexts):
        return special.expit(contexts / UNIT @ self.theta.T)

    def log(self, n, rng, sharpness):
        x = np.column_stack([np.ones(n), rng.normal(size=(n, 4))])
        contexts = np.rint(x.clip(-8, 8) * UNIT).astype(np.int64)
        means = self.means(contexts)
        shares = 0.5 * special.softmax(contexts / UNIT @ self.logging.T, axis=1) + 0.05
        arms = (rng.random((n, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(max=9)
        rewards = (rng.random(n) < means[np.arange(n), arms]).astype(float)
        targets = special.softmax(sharpness * means, axis=1)
        served = Served(arms, rewards, shares[np.arange(n), arms], targets)
        return served, contexts, float((targets * means).sum(axis=1).mean())


def world():
    rng = np.random.default_rng(20260160)
    return World(rng.normal(0, 0.5, (10, 5)) - 0.3, rng.normal(0, 0.5, (10, 5)))


WORLD = world()


RUNS = 120


@pytest.fixture(scope="module")
def estimated():
    """By sharpness of the target: per log the truth, and value and interval of each estimator.

    All targets are estimated from the same logs, with the same model of the rewards.
    """
    rng = np.random.default_rng(20260161)
    truth, results = {}, {}
    for _ in range(RUNS):
        logged, contexts, _ = WORLD.log(1_000, rng, 0.0)
        means, q = WORLD.means(contexts), cross_fitted(contexts, logged)
        for sharpness in (0.0, 4.0, 10.0):
            targets = special.softmax(sharpness * means, axis=1)
            served = replace(logged, targets=targets)
            totals = served.totals
            estimates = (
                ips(totals),
                self_normalised(totals),
                doubly_robust(served, q),
                self_normalised_doubly_robust(served, q),
            )
            truth.setdefault(sharpness, []).append(float((targets * means).sum(axis=1).mean()))
            results.setdefault(sharpness, []).append(
                [(e.value, e.interval.lower, e.interval.upper) for e in estimates]
            )
    return {sharpness: (np.array(truth[sharpness]), np.array(results[sharpness])) for sharpness in truth}


@pytest.mark.parametrize("sharpness", [0.0, 4.0, 10.0])
def test_estimates_are_unbiased_covering_and_better_with_a_model(estimated, sharpness):
    """120 logs of 1,000 rows for each of three targets: bias within three errors, coverage at least 0.92.

    The planted bug is in the next test.
    """
    runs = RUNS
    truth, results = estimated[sharpness]
    errors = results[:, :, 0] - truth[:, None]
    for column, name in ((0, "ips"), (2, "doubly robust")):
        bias, error = errors[:, column].mean(), errors[:, column].std() / math.sqrt(runs)
        assert abs(bias) <= 3 * error, name
    root = np.sqrt((errors**2).mean(axis=0))
    assert root[2] <= root[0]
    assert ((results[:, 1, 0] >= 0) & (results[:, 1, 0] <= 1)).all()
    covered = ((results[:, :, 1] <= truth[:, None]) & (truth[:, None] <= results[:, :, 2])).sum(axis=0)
    assert (covered >= 0.92 * runs).all()


def test_wrong_propensities_are_seen_as_bias_and_as_weights_that_do_not_average_one():
    rng = np.random.default_rng(20260162)
    misses, warned = 0, 0
    for _ in range(50):
        served, _, truth = WORLD.log(2_000, rng, 10.0)
        forgotten = Served(served.arms, served.rewards, np.full(2_000, 0.15), served.targets)
        estimate = ips(forgotten.totals)
        misses += not estimate.interval.lower <= truth <= estimate.interval.upper
        warned += any("average" in warning for warning in estimate.overlap.warnings)
        assert not any("average" in warning for warning in ips(served.totals).overlap.warnings)
    assert misses > stats.binom.isf(1e-6, 50, 0.05)
    assert warned > 25


def test_the_worked_cases_hold():
    arms = np.repeat([0, 1], 50)
    served = Served(arms, 1.0 - arms, np.full(100, 0.5), np.tile([1.0, 0.0], (100, 1)))
    assert ips(served.totals).value == 1
    with pytest.raises(InsufficientData, match="do not differ"):
        self_normalised(served.totals)
    assert served.totals.overlap.effective_rows == 50
    empty = anytime_interval(Served(np.array([0]), np.array([0.5]), np.array([1.0]), np.array([[1.0]])))
    assert (empty.lower, empty.upper) == pytest.approx((0, 1), abs=0.02)


def test_estimators_agree_with_their_formulas_row_by_row():
    """The formulas of Dudik et al. (2014), written as plain sums over rows."""
    served, contexts, _ = WORLD.log(500, np.random.default_rng(20260163), 6.0)
    q = cross_fitted(contexts, served)
    rows = range(500)
    w = [served.targets[i][served.arms[i]] / served.propensities[i] for i in rows]
    r = served.rewards
    baseline = [sum(served.targets[i][a] * q[i][a] for a in range(10)) for i in rows]
    residual = [r[i] - q[i][served.arms[i]] for i in rows]
    expected = {
        "ips": math.fsum(w[i] * r[i] for i in rows) / 500,
        "snips": math.fsum(w[i] * r[i] for i in rows) / math.fsum(w),
        "dr": math.fsum(baseline[i] + w[i] * residual[i] for i in rows) / 500,
        "sndr": math.fsum(baseline) / 500 + math.fsum(w[i] * residual[i] for i in rows) / math.fsum(w),
    }
    found = {
        "ips": ips(served.totals),
        "snips": self_normalised(served.totals),
        "dr": doubly_robust(served, q),
        "sndr": self_normalised_doubly_robust(served, q),
    }
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(expected[name], abs=1e-10), name
        assert estimate.overlap.effective_rows == pytest.approx(sum(w) ** 2 / sum(v * v for v in w))
    assert found["ips"].standard_error == pytest.approx(np.std(np.array(w) * r, ddof=1) / math.sqrt(500))
    # The ratio's error against the jackknife's, which knows nothing of linearisation.
    total, weight = np.sum(np.array(w) * r), np.sum(w)
    without = (total - np.array(w) * r) / (weight - np.array(w))
    jackknife = math.sqrt(499 / 500 * np.sum((without - without.mean()) ** 2))
    assert found["snips"].standard_error == pytest.approx(jackknife, rel=0.02)


def test_without_a_model_doubly_robust_is_ips():
    served, _, _ = WORLD.log(400, np.random.default_rng(20260164), 5.0)
    nothing = np.zeros((400, 10))
    assert doubly_robust(served, nothing).value == pytest.approx(ips(served.totals).value)


def test_the_log_evaluated_on_itself_is_its_mean():
    rng = np.random.default_rng(20260165)
    shares = rng.dirichlet(np.ones(3), 300)
    arms = np.array([rng.choice(3, p=p) for p in shares])
    served = Served(arms, rng.random(300), shares[np.arange(300), arms], shares)
    assert ips(served.totals).value == pytest.approx(served.rewards.mean())
    assert served.totals.overlap.effective_rows == pytest.approx(300)


def log_with_weights(weights, rewards):
    """Of two arms: the target serves the first with probability w / 100, logged at 1 / 100."""
    weights = np.asarray(weights, dtype=float)
    target = np.column_stack([weights / 100, 1 - weights / 100])
    return Served(np.zeros(len(weights), dtype=np.int64), rewards, np.full(len(weights), 0.01), target)


def test_too_little_overlap_is_refused_and_little_is_warned_of():
    rewards = np.random.default_rng(2).random(1_000)
    few = log_with_weights([1.0] * 25 + [0.0] * 975, rewards)
    with pytest.raises(TooLittleOverlap, match=r"at least 30 effective rows, has 25\.0 of 1000"):
        ips(few.totals)
    with pytest.raises(TooLittleOverlap):
        doubly_robust(few, np.zeros((1_000, 2)))
    with pytest.raises(TooLittleOverlap):
        _ = WeightTotals().overlap
    some = ips(log_with_weights([1.0] * 60 + [0.0] * 940, rewards).totals).overlap
    assert some.effective_rows == pytest.approx(60)
    assert any("60 effective rows" in warning for warning in some.warnings)
    one = ips(log_with_weights([100.0] + [1.0] * 700 + [0.0] * 299, rewards).totals).overlap
    assert one.largest_share == pytest.approx(0.125)
    assert any("one row has 12% of all weight" in warning for warning in one.warnings)
    good = ips(log_with_weights(np.full(1_000, 1.0), rewards).totals).overlap
    assert good.warnings == ()


def test_the_anytime_interval_keeps_its_level_at_all_looks_and_the_fixed_one_does_not():
    """120 streams, 12 looks from 30 to 2,000 rows: a miss anywhere counts. Limit: binomial, 1e-6 at 0.05."""
    rng = np.random.default_rng(20260167)
    runs, looks = 120, np.geomspace(30, 2_000, 12).astype(int)
    methods = {"anytime": lambda part: astuple(anytime_interval(part)), "fixed": at_one_look}
    missed = dict.fromkeys(methods, 0)
    for _ in range(runs):
        shares = np.tile([0.8, 0.2], (2_000, 1))
        arms = (rng.random(2_000) < 0.2).astype(np.int64)
        rewards = (rng.random(2_000) < np.array([0.3, 0.5])[arms]).astype(float)
        target = np.tile([0.2, 0.8], (2_000, 1))
        truth = 0.2 * 0.3 + 0.8 * 0.5
        for name, interval_of in methods.items():
            for look in looks:
                seen = np.arange(look), arms[:look]
                lower, upper = interval_of(Served(arms[:look], rewards[:look], shares[seen], target[:look]))
                if not lower <= truth <= upper:
                    missed[name] += 1
                    break
    limit = stats.binom.isf(1e-6, runs, 0.05)
    assert missed["anytime"] <= limit
    assert missed["fixed"] > limit


def at_one_look(part):
    terms = part.weights * part.rewards
    radius = 1.96 * terms.std(ddof=1) / math.sqrt(len(terms))
    return terms.mean() - radius, terms.mean() + radius


def test_the_anytime_interval_narrows_and_needs_no_support():
    rng = np.random.default_rng(20260168)
    widths = []
    for n in (100, 1_000, 10_000):
        served, _, _ = WORLD.log(n, rng, 4.0)
        interval = anytime_interval(served)
        assert 0 <= interval.lower <= interval.upper <= 1
        widths.append(interval.upper - interval.lower)
    assert widths[2] < widths[1] < widths[0]
    assert widths[2] < 2.2 * (lambda e: e.interval.upper - e.interval.lower)(ips(served.totals))
    # A target that half the time serves what the log never does: the interval must hold either extreme.
    half = log_with_weights(np.full(5_000, 0.5), np.full(5_000, 0.8))
    interval = anytime_interval(half)
    assert interval.lower <= 0.5 * 0.8
    assert interval.upper >= 0.5 * 0.8 + 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"rewards": np.array([0.5, 1.5])},
        {"rewards": np.array([0.5])},
        {"propensities": np.array([0.0, 0.5])},
        {"propensities": np.array([0.5, math.nan])},
        {"targets": np.array([[0.5, 0.6], [0.5, 0.5]])},
        {"targets": np.array([[0.5, 0.5]])},
        {"arms": np.array([0, 2])},
    ],
)
def test_rows_that_mean_nothing_are_refused(change):
    rows = {
        "arms": np.array([0, 1]),
        "rewards": np.array([0.5, 1.0]),
        "propensities": np.array([0.5, 0.5]),
        "targets": np.array([[0.5, 0.5], [0.2, 0.8]]),
    }
    Served(**rows)
    with pytest.raises(InvalidInput):
        Served(**(rows | change))


def test_nonsense_parameters_are_refused():
    served, contexts, _ = WORLD.log(200, np.random.default_rng(3), 1.0)
    for wrong in (
        lambda: ips(served.totals, level=1.0),
        lambda: doubly_robust(served, np.zeros((200, 9))),
        lambda: cross_fitted(contexts, served, folds=1),
        lambda: cross_fitted(contexts[:10], served),
        lambda: anytime_interval(served, level=0),
    ):
        with pytest.raises(InvalidInput):
            wrong()
