"""Totals for logistic regression: exact where contexts repeat, honest where they do not."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from bandits.contextual import thompson
from bandits.features import ENTRY_MAX, UNIT
from bandits.logistic import CELLS_MAX, LogisticTotals, logistic
from stats.errors import InvalidInput


def categories(rng, n, theta):
    x = np.column_stack([np.ones(n), rng.integers(0, 2, (n, len(theta) - 1))])
    rewards = (rng.random(n) < special.expit(x @ theta)).astype(float)
    return (x * UNIT).astype(np.int64), rewards


def continuous(rng, n, theta):
    x = np.column_stack([np.ones(n), rng.normal(size=(n, len(theta) - 1))]).clip(-8, 8)
    contexts = np.rint(x * UNIT).astype(np.int64)
    return contexts, (rng.random(n) < special.expit(contexts / UNIT @ theta)).astype(float)


def in_pieces(contexts, rewards, order, size):
    totals = LogisticTotals.empty(contexts.shape[1])
    for start in range(0, len(order), size):
        part = order[start : start + size]
        totals += LogisticTotals.of_rows(contexts[part], rewards[part])
    return totals


def test_the_worked_case_holds():
    contexts = np.array([[UNIT, 0], [UNIT, 0], [UNIT, UNIT]])
    totals = LogisticTotals.of_rows(contexts, np.array([1.0, 0, 1]))
    assert totals.level == 0
    assert totals.n.tolist() == [2, 1]
    assert (totals.sums / totals.n[:, None] / UNIT).tolist() == [[1, 0], [1, 1]]


def test_the_worked_posterior_holds():
    """An intercept alone, one success and one failure: the mode is 0, the curvature 2/4 + 1 / 1.5^2."""
    posterior = logistic([LogisticTotals.of_rows(np.array([[UNIT], [UNIT]]), np.array([1.0, 0]))])
    assert posterior.means == pytest.approx(np.zeros((1, 1)), abs=1e-9)
    assert posterior.covariances[0, 0, 0] == pytest.approx(1 / (0.5 + 4 / 9))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 100))
def test_neither_order_nor_batches_change_a_bit(seed, size):
    rng = np.random.default_rng(seed)
    contexts, rewards = categories(rng, 100, np.zeros(4))
    pooled = LogisticTotals.of_rows(contexts, rewards)
    order = rng.permutation(100)
    assert in_pieces(contexts, rewards, order, size) == pooled
    first = LogisticTotals.of_rows(contexts[:40], rewards[:40])
    assert pooled - first == LogisticTotals.of_rows(contexts[40:], rewards[40:])
    assert LogisticTotals.from_bytes(pooled.to_bytes()) == pooled


@pytest.mark.parametrize("d", [2, 4, 9])
def test_nor_do_they_when_cells_had_to_be_merged(d):
    rng = np.random.default_rng(20260130 + d)
    contexts, rewards = continuous(rng, 6_000, np.zeros(d))
    pooled = LogisticTotals.of_rows(contexts, rewards)
    assert pooled.level > 0
    assert len(pooled.n) <= CELLS_MAX
    assert in_pieces(contexts, rewards, rng.permutation(6_000), 1_700) == pooled
    assert pooled.sums.sum(axis=0).tolist() == contexts.sum(axis=0).tolist()


def test_extreme_contexts_end_in_few_enough_cells():
    rng = np.random.default_rng(20260131)
    contexts = rng.choice([-ENTRY_MAX, ENTRY_MAX], (CELLS_MAX + 500, 40))
    contexts[:, 0] = UNIT
    totals = LogisticTotals.of_rows(contexts, np.zeros(len(contexts)))
    assert len(totals.n) == 1
    assert np.isfinite(logistic([totals]).means).all()


def test_the_mode_and_curvature_are_those_of_the_penalised_likelihood():
    """Against scipy's BFGS on the likelihood of all rows, with the prior that was chosen."""
    rng = np.random.default_rng(20260132)
    contexts, rewards = categories(rng, 400, np.array([-0.5, 1, -1, 0]))
    posterior = logistic([LogisticTotals.of_rows(contexts, rewards)])
    x = contexts / UNIT
    square = (x[:, 1:] ** 2).sum(axis=1).mean()
    precision = np.array([1.5**-2, *[square / posterior.spread**2] * 3])
    centre = np.array([special.logit((rewards.sum() + 1) / 402), 0, 0, 0])

    def negative(theta):
        score = x @ theta
        return np.logaddexp(0, score).sum() - rewards @ score + 0.5 * precision @ (theta - centre) ** 2

    mode = optimize.minimize(negative, centre, method="BFGS", options={"gtol": 1e-8}).x
    assert posterior.means[0] == pytest.approx(mode, abs=1e-5)
    p = special.expit(x @ mode)
    curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(precision)
    assert posterior.covariances[0] == pytest.approx(np.linalg.inv(curvature), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize(("d", "slope", "within"), [(3, 1.0, 0.5), (10, 1.0, 3.0), (30, 0.5, 1.5)])
def test_merged_cells_lose_little_against_all_rows(d, slope, within):
    """statsmodels' GLM sees the rows; the figure is the largest distance in its standard errors."""
    rng = np.random.default_rng(20260133 + d)
    theta = np.concatenate([[0.2, slope, -slope], np.zeros(d - 2)])
    contexts, rewards = continuous(rng, 8_000, theta)
    fitted = sm.GLM(rewards, contexts / UNIT, family=sm.families.Binomial()).fit()
    posterior = logistic([LogisticTotals.of_rows(contexts, rewards)])
    assert abs((posterior.means[0] - fitted.params) / fitted.bse).max() < within
    assert np.sqrt(np.diag(posterior.covariances[0])) == pytest.approx(fitted.bse, rel=0.1)


def test_separable_rewards_stay_finite():
    contexts = np.array([[UNIT, -UNIT], [UNIT, UNIT]] * 50)
    posterior = logistic([LogisticTotals.of_rows(contexts, np.array([0.0, 1] * 50)), LogisticTotals.empty(2)])
    assert np.isfinite(posterior.means).all()
    assert posterior.means[0, 1] > 1
    shares = thompson(posterior.arms(), np.array([1.0, 1]), exploration_floor=0)
    assert shares[0] > 0.8


def test_nothing_observed_decides_for_all_arms_alike():
    arms = logistic([LogisticTotals.empty(3)] * 4).arms()
    shares = thompson(arms, np.array([1.0, 1, 0]), exploration_floor=0)
    assert shares == pytest.approx([0.25] * 4, abs=1e-9)


def regret(update, seed):
    """Rewards forgone per round on a logistic problem of 4 arms and 4 flags; posterior every 80 rounds."""
    rng = np.random.default_rng(seed)
    theta = np.column_stack([np.full(4, -0.5), rng.normal(0, 1.5, (4, 4))])
    x = np.column_stack([np.ones(800), rng.integers(0, 2, (800, 4))])
    means = special.expit(x @ theta.T)
    rewards = (rng.random(means.shape) < means).astype(float)
    contexts = (x * UNIT).astype(np.int64)
    totals = [LogisticTotals.empty(5) for _ in range(4)]
    forgone = 0.0
    for start in range(0, 800, 80):
        arms, part = logistic(totals).arms(), np.arange(start, start + 80)
        served = np.array([rng.choice(4, p=thompson(arms, x[row], exploration_floor=0)) for row in part])
        forgone += (means[part].max(axis=1) - means[part, served]).sum()
        for arm in range(4):
            mine = part[served == arm]
            totals[arm] += LogisticTotals.of_rows(contexts[mine], update(rewards[mine, arm]))
    return forgone / 800


def test_regret_is_small_and_the_gate_sees_a_planted_bug():
    """Playing at random forgoes 0.3 a round; the gate is 0.1. Planted: rewards are learned upside down."""
    assert np.mean([regret(lambda rewards: rewards, 20260140 + k) for k in range(2)]) < 0.1
    assert regret(lambda rewards: 1 - rewards, 20260140) > 0.1


def test_what_are_no_totals_is_refused():
    one = LogisticTotals.of_rows(np.array([[UNIT, 0]]), np.array([1.0]))
    other = LogisticTotals.of_rows(np.array([[UNIT, 5]]), np.array([1.0]))
    for wrong in (
        lambda: one - other,
        lambda: LogisticTotals.from_bytes(b""),
        lambda: LogisticTotals.from_bytes(one.to_bytes()[:-16]),
        lambda: logistic([]),
        lambda: logistic([one, LogisticTotals.empty(3)]),
    ):
        with pytest.raises(InvalidInput):
            wrong()
