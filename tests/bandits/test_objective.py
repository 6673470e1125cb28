"""Constraints, weighted sums, and the frontier."""

import numpy as np
import pytest
from scipy import stats

from bandits.allocation import Allocation
from bandits.arms import BetaArms, GammaArms, NormalArms
from bandits.best import probability_best
from bandits.objective import Constraint, constrained_thompson, frontier, scalarised
from bandits.thompson import thompson
from stats.errors import InvalidInput

REWARD = BetaArms(np.array([30.0, 40, 50]), np.array([70.0, 60, 50]))
CONTROL = Allocation(np.array([1.0, 0, 0]))


def latency(*means, scale=0.05):
    return NormalArms(np.array(means), np.full(len(means), scale), np.full(len(means), 50.0))


def test_a_constraint_is_met_with_the_posterior_probability_of_its_bounds():
    met = Constraint(latency(1.0, 1.1, 2.0), at_most=1.1).probability_met()
    assert met == pytest.approx(stats.t(50).cdf([2, 0, -18]), abs=1e-12)
    both = Constraint(latency(1.0, 1.1, 2.0), at_least=1.0, at_most=1.1).probability_met()
    assert both[0] == pytest.approx(stats.t(50).cdf(2) - 0.5)
    counts = GammaArms(np.array([4.0]), np.array([2.0]))
    assert Constraint(counts, at_most=3).probability_met() == pytest.approx(stats.gamma(4, scale=0.5).cdf(3))


def test_shares_are_those_of_drawing_rewards_and_metrics_and_serving_the_best_feasible():
    """200,000 literal draws, within binomial bounds of 1e-8; ignoring the constraint must fail."""
    slow = latency(1.0, 1.08, 1.2, scale=0.1)
    rng, n = np.random.default_rng(20260130), 200_000
    reward = REWARD.draw(rng, n)
    score = np.where(slow.draw(rng, n) <= 1.1, reward, -1)
    chosen = np.where(score.max(axis=1) < 0, 0, score.argmax(axis=1))
    counts = np.bincount(chosen, minlength=3)

    def agrees(shares):
        return (
            (counts >= stats.binom.ppf(1e-8, n, shares)) & (counts <= stats.binom.isf(1e-8, n, shares))
        ).all()

    constraints = [Constraint(slow, at_most=1.1)]
    assert agrees(constrained_thompson(REWARD, constraints, when_none=CONTROL, exploration_floor=0).shares)
    assert not agrees(constrained_thompson(REWARD, [], when_none=CONTROL, exploration_floor=0).shares)


def test_constrained_shares_are_the_worked_ones():
    """Two equal arms, of which the second meets the constraint with probability 1/2."""
    constraints = [Constraint(latency(0, 1, scale=1e-3), at_most=1)]
    equal, spare = BetaArms(np.full(2, 3.0), np.full(2, 3.0)), Allocation(np.array([1.0, 0]))
    served = constrained_thompson(equal, constraints, when_none=spare, exploration_floor=0)
    assert served.shares == pytest.approx([3 / 4, 1 / 4], abs=1e-6)


def test_where_no_arm_is_feasible_the_stated_answer_is_served():
    impossible = [Constraint(latency(1.0, 1.1, 1.2, scale=0.001), at_most=0.5)]
    served = constrained_thompson(REWARD, impossible, when_none=CONTROL, exploration_floor=0.03).shares
    assert served == pytest.approx([0.98, 0.01, 0.01])


def test_a_weighted_sum_has_the_worked_mean_and_deviation():
    quality = NormalArms(np.array([0.5]), np.array([0.03]), np.array([1e12]))
    seconds = NormalArms(np.array([2.0]), np.array([0.4]), np.array([1e12]))
    total = scalarised([quality, seconds], [1, -0.1])
    assert total.mean == pytest.approx(0.3)
    assert total.scale == pytest.approx(0.05)


def test_the_frontier_leaves_out_what_another_arm_beats_in_everything():
    reward = NormalArms(np.array([0.5, 0.6, 0.4]), np.full(3, 0.001), np.full(3, 50.0))
    found = frontier([reward, latency(1, 2, 2, scale=0.001)], [1, -1], rng=np.random.default_rng(20260131))
    assert found.on.tolist() == [True, True, False]
    assert found.probability == pytest.approx([1, 1, 0], abs=0.01)


def test_on_one_metric_the_frontier_is_the_best_arm():
    """Within 6 standard errors of P(best)."""
    found = frontier([REWARD], [1], rng=np.random.default_rng(20260132), draws=50_000)
    expected = probability_best(REWARD)
    assert (np.abs(found.probability - expected) <= 6 * found.standard_error + 1e-3).all()
    assert found.probability.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: Constraint(REWARD, at_least=1, at_most=0),
        lambda: constrained_thompson(
            REWARD, [Constraint(latency(1, 2), at_most=1)], when_none=CONTROL, exploration_floor=0
        ),
        lambda: scalarised([REWARD], [1, 2]),
        lambda: scalarised([NormalArms(np.zeros(1), np.ones(1), np.full(1, 2.0))], [1]),
        lambda: frontier([REWARD], [2], rng=np.random.default_rng(0)),
    ],
)
def test_refuses_parameters_out_of_range(refused):
    with pytest.raises(InvalidInput):
        refused()


def test_the_best_feasible_arm_is_served_and_the_gate_sees_a_planted_bug():
    """Rewards 0.3, 0.7 and 0.6, seconds 1, 2 and 1, at most 1.5 allowed: the third. 40 batches of 25.

    The second, better and too slow, gets under a tenth, and at least 0.6 go to the third. Planted bug: no
    constraint serves the second.
    """
    rates, seconds = np.array([0.3, 0.7, 0.6]), np.array([1.0, 2.0, 1.0])

    def pulls(limit):
        rng = np.random.default_rng(20260131)
        n, wins = np.ones(3), np.array([0.0, 1, 1])
        time, square = seconds.copy(), seconds**2
        for _ in range(40):
            reward = BetaArms(1 + wins, 1 + n - wins)
            metric = NormalArms.from_moments(n, time / n, np.maximum(square - time**2 / n, 0.0))
            constraints = [Constraint(metric, at_most=limit)]
            shares = constrained_thompson(reward, constraints, when_none=CONTROL, exploration_floor=0.03)
            new = rng.multinomial(25, shares.shares)
            n, wins = n + new, wins + rng.binomial(new, rates)
            observed = [rng.normal(mean, 0.3, count) for mean, count in zip(seconds, new, strict=True)]
            time = time + [one.sum() for one in observed]
            square = square + [(one**2).sum() for one in observed]
        return n / n.sum()

    assert pulls(1.5)[1] < 0.1
    assert pulls(1.5)[2] > 0.6
    assert pulls(1e6)[1] > 0.5


def test_shares_of_a_weighted_sum_are_those_of_drawing_its_metrics():
    """200,000 literal draws of both metrics, within 0.01: a Beta of 100 rewards is not quite normal."""
    seconds, rng = latency(2.0, 1.9, 2.2, scale=0.5), np.random.default_rng(20260133)
    drawn = REWARD.draw(rng, 200_000) - 0.1 * seconds.draw(rng, 200_000)
    literal = np.bincount(drawn.argmax(axis=1), minlength=3) / 200_000
    assert probability_best(scalarised([REWARD, seconds], [1, -0.1])) == pytest.approx(literal, abs=0.01)


def test_the_best_weighted_sum_is_served_and_the_gate_sees_planted_bugs():
    """Rewards 0.5, 0.7 and 0.6 after 1, 4 and 1 seconds at 0.1 each: 0.4, 0.3 and 0.5. 30 batches of 25.

    Mean loss below 0.04 a pull; an even split loses 0.1. Planted bugs: seconds have the wrong sign, or none.
    """
    rates, seconds = np.array([0.5, 0.7, 0.6]), np.array([1.0, 4.0, 1.0])
    worth = rates - 0.1 * seconds

    def lost(weight):
        rng, n = np.random.default_rng(20260134), np.full(3, 3.0)
        sums = np.array([3 * rates, 3 * rates, 3 * seconds, 3 * seconds**2 + 1])
        for _ in range(30):
            metrics = [
                NormalArms.from_moments(n, total / n, squares - total**2 / n)
                for total, squares in (sums[:2], sums[2:])
            ]
            new = rng.multinomial(
                25, thompson(scalarised(metrics, [1, weight]), exploration_floor=0.02).shares
            )
            wins = rng.binomial(new, rates).astype(float)
            times = [rng.normal(mean, 0.5, count) for mean, count in zip(seconds, new, strict=True)]
            sums += [wins, wins, [one.sum() for one in times], [(one**2).sum() for one in times]]
            n += new
        return (n - 3) @ (worth.max() - worth) / 750

    assert lost(-0.1) < 0.04
    assert lost(0.1) > 0.04
    assert lost(0.0) > 0.04
