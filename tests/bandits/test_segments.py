"""Partial pooling: as good as the better of pooling and standing alone, and better between."""

import numpy as np
import pytest
from scipy import integrate, special

from bandits.arms import BetaArms, answers_per_reward
from bandits.best import probability_best
from bandits.segments import partially_pooled
from bandits.totals import ArmTotals
from stats.errors import InvalidInput
from stats.totals import RewardTotals

SIZES = np.array([400] * 15 + [40] * 10 + [8] * 15)


def totals_of(n, successes):
    return [[RewardTotals(a, float(b), float(b))] for a, b in zip(n, successes, strict=True)]


def squared_errors(draw_rates, *, runs, seed):
    """Mean squared errors over all segments of pooling partly, completely, and not at all (Beta(1, 1))."""
    rng = np.random.default_rng(seed)
    errors = []
    for _ in range(runs):
        rates = draw_rates(rng)
        successes = rng.binomial(SIZES, rates)
        partly = np.array([arms.mean[0] for arms in partially_pooled(totals_of(SIZES, successes)).segments])
        wholly = np.full(len(SIZES), successes.sum() / SIZES.sum())
        alone = (successes + 1) / (SIZES + 2)
        errors.append([np.square(guess - rates).mean() for guess in (partly, wholly, alone)])
    return np.mean(errors, axis=0)


def test_between_the_extremes_it_beats_both():
    partly, wholly, alone = squared_errors(lambda rng: rng.beta(6, 24, len(SIZES)), runs=20, seed=20260150)
    assert partly < 0.75 * wholly
    assert partly < 0.75 * alone


def test_at_the_extremes_it_comes_close_to_the_better_one():
    same = squared_errors(lambda rng: np.full(len(SIZES), 0.2), runs=20, seed=20260151)
    assert same[0] < 0.1 * same[2]
    apart = squared_errors(lambda rng: rng.random(len(SIZES)), runs=20, seed=20260152)
    assert apart[0] < 1.02 * apart[2]
    assert apart[0] < 0.1 * apart[1]


def test_shrinkage_is_near_one_where_segments_agree_and_near_zero_where_they_do_not():
    n = np.full(30, 1_000)
    agree = partially_pooled(totals_of(n, np.full(30, 200)))
    differ = partially_pooled(totals_of(n, np.linspace(50, 950, 30)))
    assert agree.shrinkage[0] > 0.9
    assert differ.shrinkage[0] < 0.02


def test_a_thin_segment_borrows_and_a_thick_one_does_not():
    n = [1_000] * 10 + [2]
    pooled = partially_pooled(totals_of(n, [200] * 5 + [210] * 5 + [2])).segments
    assert pooled[0].mean[0] == pytest.approx(0.2, abs=0.006)
    assert 0.19 < pooled[-1].mean[0] < 0.3
    alone = BetaArms(np.array([3.0]), np.array([1.0])).mean[0]
    assert alone == 0.75


def test_the_worked_case_of_one_success_holds():
    """With one reward the shrinkage is uniform on [1/2, 1], so 1 / (kappa + 1) is 1/4 on average.

    There the mean is E theta^2 / E theta = 2 (E mu^2 + E mu (1 - mu) / 4) = 3/4, elsewhere 2 E mu^2 = 2/3.
    """
    here, elsewhere = partially_pooled(totals_of([1, 0], [1, 0])).segments
    assert here.mean[0] == pytest.approx(3 / 4, abs=5e-4)
    assert elsewhere.mean[0] == pytest.approx(2 / 3, abs=5e-4)


def by_quadrature(n, successes):
    """Posterior mean rates of two segments by scipy's adaptive rule over shrinkage and mu, from the model."""
    size = np.mean(n)

    def weight(mu, shrinkage):
        kappa = size * shrinkage / (1 - shrinkage)
        alpha, beta = mu * kappa, (1 - mu) * kappa
        logs = special.betaln(alpha + successes, beta + n - successes) - special.betaln(alpha, beta)
        return np.exp(logs.sum() + 30)

    def rate(mu, shrinkage, which):
        kappa = size * shrinkage / (1 - shrinkage)
        return weight(mu, shrinkage) * (mu * kappa + successes[which]) / (kappa + n[which])

    low = 1 / (1 + size)  # kappa is at least 1
    box = {"a": low, "b": 1, "gfun": 0, "hfun": 1, "epsabs": 0, "epsrel": 1e-5}
    total = integrate.dblquad(weight, **box)[0]
    return [integrate.dblquad(rate, args=(which,), **box)[0] / total for which in (0, 1)]


def test_the_grid_agrees_with_adaptive_quadrature():
    n, successes = np.array([30, 12]), np.array([6, 7])
    pooled = partially_pooled(totals_of(n, successes)).segments
    assert [arms.mean[0] for arms in pooled] == pytest.approx(by_quadrature(n, successes), abs=2e-4)


def test_segments_and_arms_may_come_in_any_order():
    rng = np.random.default_rng(20260153)
    n = rng.integers(0, 200, (6, 3))
    wins = rng.binomial(n, 0.3)
    totals = [
        [RewardTotals(int(a), float(b), float(b)) for a, b in zip(*row, strict=True)]
        for row in zip(n, wins, strict=True)
    ]
    pooled = partially_pooled(totals)
    turned = partially_pooled([row[::-1] for row in totals[::-1]])
    for arms, other in zip(pooled.segments, turned.segments[::-1], strict=True):
        assert arms.alpha == pytest.approx(other.alpha[::-1], rel=1e-9)
        assert arms.beta == pytest.approx(other.beta[::-1], rel=1e-9)


def test_each_segment_decides_for_itself():
    """Arm 1 is better on phones, arm 0 on desktops; a rare device follows what most do."""

    def totals(n, first, second):
        return [RewardTotals(n, first, first), RewardTotals(n, second, second)]

    rows = [totals(2000, 400.0, 600.0)] * 6 + [totals(2000, 600.0, 400.0)] + [totals(4, 1.0, 1.0)]
    best = [probability_best(arms) for arms in partially_pooled(rows).segments]
    assert best[0][1] > 0.95
    assert best[6][0] > 0.95
    assert best[7][1] > 0.7


def test_nothing_extreme_or_fractional_breaks_it():
    nothing = partially_pooled([[RewardTotals()] * 2] * 3).segments[0]
    assert nothing.mean == pytest.approx([0.5, 0.5])
    for n, successes in (([5, 5], [0, 0]), ([5, 5], [5, 5]), ([10**9, 3], [1e8, 1.5]), ([1, 0], [0.5, 0])):
        arms = partially_pooled([[RewardTotals(a, b, b)] for a, b in zip(n, successes, strict=True)]).segments
        assert all(0 < segment.mean[0] < 1 for segment in arms)


def test_fractional_rewards_count_as_the_answers_they_are_worth():
    """Three segments of an arm with Beta rewards of concentration 19, and one with answers of yes or no."""
    rng = np.random.default_rng(20260154)
    n, means = [300, 40, 1], [0.3, 0.4, 0.35]
    rewards = [rng.beta(19 * mean, 19 * (1 - mean), size) for size, mean in zip(n, means, strict=True)]
    sums = np.array([segment.sum() for segment in rewards])
    squares = np.array([np.square(segment).sum() for segment in rewards])
    successes = [100.0, 10.0, 1.0]
    totals = [
        [RewardTotals(*row), RewardTotals(row[0], wins, wins)]
        for *row, wins in zip(n, sums, squares, successes, strict=True)
    ]
    found = partially_pooled(totals).segments
    arms = ArmTotals(*(np.array(one, dtype=np.float64)[:, None] for one in (n, sums, squares, [0] * 3)))
    worth = answers_per_reward(arms, alike_over=0)[0]
    assert 15 < worth < 25
    counted = partially_pooled(
        [
            [RewardTotals(worth * size, worth * total, worth * total), RewardTotals(size, wins, wins)]
            for size, total, wins in zip(n, sums, successes, strict=True)
        ]
    ).segments
    for pooled, expected in zip(found, counted, strict=True):
        assert pooled.alpha == pytest.approx(expected.alpha, rel=1e-9)
        assert pooled.beta == pytest.approx(expected.beta, rel=1e-9)


def binomial_totals(rng, n, rates):
    wins = rng.binomial(n, rates)
    return [
        [RewardTotals(int(a), float(b), float(b)) for a, b in zip(*row, strict=True)]
        for row in zip(n, wins, strict=True)
    ]


def test_what_is_common_to_all_arms_of_a_segment_is_its_effect_and_no_disagreement():
    """Effects of -0.8, 0 and 0.8 on the logit scale; 300 rewards of each arm in each segment.

    Given rewards tell an effect to about 0.06, so 0.25 is far; without effects nothing would be drawn
    together.
    """
    rng = np.random.default_rng(20260156)
    logit = np.array([-0.8, 0.0, 0.8])[:, None] + np.array([-0.6, -0.2, 0.0, 0.2, 0.4])
    n = np.full((3, 5), 300)
    pooled = partially_pooled(binomial_totals(rng, n, special.expit(logit)))
    assert np.diff(pooled.effects) == pytest.approx([0.8, 0.8], abs=0.25)
    assert (pooled.shrinkage > 0.75).all()
    one_arm = partially_pooled([row[:1] for row in binomial_totals(rng, n, special.expit(logit))])
    assert (one_arm.effects == 0).all()
    assert one_arm.shrinkage[0] < 0.5


def test_a_thin_segment_expects_what_its_effect_and_the_arm_let_expect():
    """The last segment, kinder to all arms, has not served the third: more is expected of it there."""
    rng = np.random.default_rng(20260157)
    n = np.array([[400, 400, 400], [400, 400, 400], [400, 400, 0]])
    rates = np.array([[0.3, 0.4, 0.5], [0.3, 0.4, 0.5], [0.5, 0.6, 0.7]])
    thin = partially_pooled(binomial_totals(rng, n, rates)).segments[2]
    assert thin.mean[2] == pytest.approx(0.69, abs=0.06)


def test_arms_that_change_their_order_between_segments_stand_alone():
    rng = np.random.default_rng(20260158)
    rates = np.array([[0.2, 0.4, 0.6], [0.6, 0.4, 0.2]])
    pooled = partially_pooled(binomial_totals(rng, np.full((2, 3), 1_000), rates))
    assert (pooled.shrinkage < 0.2).all()
    for arms, expected in zip(pooled.segments, rates, strict=True):
        assert arms.mean == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("totals", [[], [[]], [[RewardTotals()], []], [[RewardTotals(1, 2.0, 2.0)]]])
def test_nonsense_is_refused(totals):
    with pytest.raises(InvalidInput):
        partially_pooled(totals)


def test_segments_find_an_arm_each_and_the_gate_sees_planted_bugs():
    """Three segments, the second with the other arm in front; 2,000 rounds each in batches of 100, 2 runs.

    Half the regret of an even split. Planted bugs: one rate for all segments, and segments mixed up.
    """
    rates = np.array([[0.5, 0.3], [0.3, 0.5], [0.55, 0.35]])

    def regret(reading, *, seed, batches=20, size=100):
        rng, lost = np.random.default_rng(seed), 0.0
        n, wins = np.zeros((3, 2)), np.zeros((3, 2))
        for _ in range(batches):
            arms = partially_pooled(
                [
                    [RewardTotals(int(a), float(b), float(b)) for a, b in zip(*row, strict=True)]
                    for row in zip(*reading(n, wins), strict=True)
                ]
            ).segments
            for segment in range(3):
                pulls = rng.multinomial(size, probability_best(arms[segment]))
                n[segment] += pulls
                wins[segment] += rng.binomial(pulls, rates[segment])
                lost += pulls @ (rates[segment].max() - rates[segment])
        return lost

    def mean(reading):
        return np.mean([regret(reading, seed=20260155 + run) for run in range(2)])

    even = 3 * 2_000 * 0.1
    assert mean(lambda n, wins: (n, wins)) < 0.5 * even
    assert mean(lambda n, wins: (n.sum(axis=0) + 0 * n, wins.sum(axis=0) + 0 * wins)) > 0.5 * even
    assert mean(lambda n, wins: (np.roll(n, 1, axis=0), np.roll(wins, 1, axis=0))) > 0.5 * even
