"""The best arm at confidence 1 - delta, and drift: worked, exact expectations, error gates, sample sizes."""

import numpy as np
import pytest
from scipy import special, stats

from bandits.allocation import fixed
from bandits.arms import BetaArms
from bandits.drift import detect
from bandits.greedy import epsilon_greedy
from bandits.identification import (
    Undecided,
    Winner,
    decide,
    decide_normal,
    optimal_shares,
    track_and_stop,
)
from bandits.simulation import Stationary, identify
from bandits.thompson import top_two
from bandits.totals import ArmTotals
from stats.errors import InvalidInput


def totals(n, total, squares=None):
    n, total = np.array(n, dtype=float), np.array(total, dtype=float)
    return ArmTotals(n, total, total if squares is None else np.array(squares, dtype=float), np.zeros_like(n))


def on_posterior(seen):
    return top_two(BetaArms.from_totals(seen), exploration_floor=0.0)


def test_the_worked_decisions_hold():
    sure = decide(totals([10, 10], [10, 0]), delta=0.05)
    assert isinstance(sure, Winner)
    assert sure.arm == 0
    assert np.exp(sure.log_evidence) > 8_138
    normal = decide_normal(
        totals([16, 16], [16, -16], [32, 32]), delta=0.05, sigma=1, prior_mean=0, prior_sd=1
    )
    assert normal.log_evidence == pytest.approx(16 - np.log(17) - 1 / (1 + 1 / 16), abs=1e-9)
    assert isinstance(decide(totals([10, 10], [5, 4]), delta=0.05), Undecided)


def test_without_rewards_nothing_is_decided():
    for seen in (totals([0, 0], [0, 0]), totals([1_000, 0], [1_000, 0])):
        assert isinstance(decide(seen, delta=0.05), Undecided)


def test_a_winner_stays_whatever_comes_after():
    winner = decide(totals([100, 100], [90, 10]), delta=0.05)
    assert decide(totals([200, 200], [90, 110]), delta=0.05, previous=winner) is winner
    assert isinstance(decide(totals([200, 200], [90, 110]), delta=0.05), Undecided)


def test_indifference_decides_earlier_and_never_the_other_way():
    seen = totals([20_000, 20_000], [10_000, 9_800])
    strict, tolerant = decide(seen, delta=0.05), decide(seen, delta=0.05, indifference=0.05)
    assert isinstance(strict, Undecided)
    assert isinstance(tolerant, Winner)
    assert tolerant.log_evidence > strict.log_evidence


def greatest_likelihood(gap):
    """Of 30 of 50 and 37 of 70 with the rival better by `gap`, over 100,001 means; the logarithm."""
    m = np.linspace(1e-6, 1 - gap - 1e-6, 100_001)
    return (stats.binom.logpmf(30, 50, m) + stats.binom.logpmf(37, 70, m + gap)).max()


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_evidence_is_the_mixture_over_the_greatest_likelihood_of_a_fine_grid(gap):
    """The prior as it is described, component by component, with scipy's beta-binomial distribution."""

    def marginal(better, worse):
        return stats.betabinom.pmf(30, 50, *better) * stats.betabinom.pmf(37, 70, *worse)

    mixture = marginal((0.5, 0.5), (0.5, 0.5)) / 4
    for concentration in (8, 128, 2_048):
        sd = concentration**-0.5
        n = int(np.ceil(np.pi / (1.5 * sd)))
        for centre in (np.arange(n) + 0.5) * np.pi / n:
            means = [np.sin(np.clip(centre + step, 0, np.pi) / 2) ** 2 for step in (sd, -sd)]
            better, worse = ((0.5 + concentration * p, 0.5 + concentration * (1 - p)) for p in means)
            mixture += marginal(better, worse) / (4 * n)
    found = decide(totals([50, 70], [30, 37]), delta=0.05, indifference=gap).log_evidence
    assert found == pytest.approx(np.log(mixture) - greatest_likelihood(gap), abs=1e-6)


def test_evidence_stays_finite_and_right_with_a_billion_rewards():
    """Averages 3e-4 apart in 1e9 rewards each are 14 standard errors apart; equal ones tell nothing."""
    apart = decide(totals([1e9, 1e9], [5.000e8, 5.003e8]), delta=1e-6)
    assert isinstance(apart, Winner)
    assert apart.arm == 1
    same = decide(totals([1e9, 1e9], [1e4, 1e4]), delta=0.5)
    assert isinstance(same, Undecided)
    assert np.isfinite(same.log_evidence)


@pytest.mark.parametrize(("p", "rival"), [(0.5, 0.5), (0.1, 0.1), (0.3, 0.3)])
def test_evidence_for_a_wrong_arm_is_at_most_one_on_average(p, rival):
    """Exactly, over all outcomes of 12 and 15 rewards. Planted bug: the likelihood ratio itself, averages in
    place of the prior, is greater than one on average."""
    n, m, mean, ratio = 12, 15, 0.0, 0.0
    for s in range(n + 1):
        for r in range(m + 1):
            found = decide(totals([n, m], [s, r]), delta=1e-12)
            if found.leader == 0:
                weight = stats.binom.pmf(s, n, p) * stats.binom.pmf(r, m, rival)
                mean += weight * np.exp(found.log_evidence)
                pooled = (s + r) / (n + m)
                averages = stats.binom.pmf(s, n, s / n) * stats.binom.pmf(r, m, r / m)
                ratio += weight * averages / (stats.binom.pmf(s, n, pooled) * stats.binom.pmf(r, m, pooled))
    assert mean <= 1
    assert ratio > 1


def naive(seen, previous):
    """A planted bug: a one-sided z-test at 5 %, looked at again and again."""
    mean, variance = seen.mean, np.maximum(seen.variance, 1e-9) / np.maximum(seen.n, 1)
    z = (mean[0] - mean[1]) / np.sqrt(variance.sum())
    arm = int(z < 0)
    return Winner(arm, 0.0, 0.0, 0.0) if abs(z) > 1.645 and seen.n.min() > 10 else Undecided(arm, 0.0, 0.0)


def test_the_wrong_arm_wins_with_probability_delta_at_most():
    """Nearly equal arms, adaptive allocation, 40 looks: at most delta of 200 runs may name the worse.

    A correct rule fails with probability below 1e-6; repeated z-tests must fail.
    """

    def wrong(stop):
        found = identify(
            Stationary((0.50, 0.505)),
            lambda seen: epsilon_greedy(seen, epsilon=0.5),
            stop,
            rounds_max=2_000,
            batch=50,
            runs=200,
            rng=np.random.default_rng(20260120),
        )
        return (found.arm == 0).sum()

    limit = stats.binom.ppf(1 - 1e-6, 200, 0.05)
    assert wrong(lambda seen, previous: decide(seen, delta=0.05, previous=previous)) <= limit
    assert wrong(naive) > limit


def with_jeffreys(seen, previous):
    """The same rule of two arms with Jeffreys' prior for each: what the prior on gaps is worth."""
    del previous
    wins, losses, leader = seen.sum, seen.n - seen.sum, int(seen.mean.argmax())
    marginal = (special.betaln(0.5 + wins, 0.5 + losses) - special.betaln(0.5, 0.5)).sum()
    null = stats.entropy([wins.sum(), losses.sum()]) * -seen.n.sum()
    sure = marginal - null >= np.log(1 / 0.05)
    return Winner(leader, 0.0, 0.0, 0.0) if sure else Undecided(leader, 0.0, 0.0)


@pytest.mark.parametrize(("means", "part"), [((0.5, 0.42), 0.95), ((0.1, 0.14), 0.92)])
def test_expecting_a_gap_saves_rewards(means, part):
    """Mean rounds of an even split, 40 runs on the same rewards; Jeffreys' prior itself needs all of them."""

    def rounds(stop):
        found = identify(
            Stationary(means),
            lambda _: fixed([0.5, 0.5]),
            stop,
            rounds_max=100_000,
            batch=50,
            runs=40,
            rng=np.random.default_rng(20260123),
        )
        assert (found.arm == np.argmax(means)).all()
        return found.rounds.mean()

    ours = rounds(lambda seen, previous: decide(seen, delta=0.05, previous=previous))
    assert ours <= part * rounds(with_jeffreys)


@pytest.mark.parametrize("means", [(0.6, 0.4, 0.3, 0.2, 0.1), (0.5, 0.35, 0.2, 0.2)])
def test_top_two_needs_three_quarters_of_an_even_split(means):
    """Mean rounds over 30 runs, same stopping rule. Of two arms an even split is all but optimal."""
    even = fixed([1 / len(means)] * len(means))

    def rounds(allocate):
        found = identify(
            Stationary(means),
            allocate,
            lambda seen, previous: decide(seen, delta=0.05, previous=previous),
            rounds_max=20_000,
            batch=20,
            runs=30,
            rng=np.random.default_rng(20260121),
        )
        assert (found.arm == 0).all()
        return found.rounds.mean()

    assert rounds(on_posterior) <= 0.75 * rounds(lambda _: even)


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        # Garivier & Kaufmann (2016), section 6.
        ((0.5, 0.45, 0.43, 0.4), (0.417, 0.390, 0.136, 0.057)),
        ((0.3, 0.21, 0.2, 0.19, 0.18), (0.336, 0.251, 0.177, 0.132, 0.104)),
        ((0.4, 0.6), (0.5, 0.5)),
        ((0.6, 0.6, 0.2), (0.5, 0.5, 0.0)),
        ((0.1, 0.1 + 1e-9), (0.5, 0.5)),
    ],
)
def test_optimal_shares_are_the_published_ones(means, expected):
    # Published figures are rounded to 1e-3; the third decimal of two of them is off by one.
    assert optimal_shares(np.array(means)) == pytest.approx(expected, abs=1.1e-3)


def test_optimal_shares_make_the_weakest_evidence_greatest():
    """No move of 0.01 between two arms improves the least pair, computed from the definition."""
    mean = np.array([0.3, 0.25, 0.1])

    def weakest(w):
        middle = (w[0] * mean[0] + w[1:] * mean[1:]) / (w[0] + w[1:])
        kl = lambda p, q: p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))  # noqa: E731
        return (w[0] * kl(mean[0], middle) + w[1:] * kl(mean[1:], middle)).min()

    best = optimal_shares(mean)
    for source in range(3):
        for target in range(3):
            moved = best.copy()
            moved[source] -= 0.005
            moved[target] += 0.005
            assert weakest(moved) <= weakest(best) + 1e-9


def test_tracking_explores_evenly_until_every_arm_has_rewards():
    shares = track_and_stop(totals([5, 0, 9], [5, 0, 2]), exploration_floor=0.1).shares
    assert shares == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: decide(totals([5], [2]), delta=0.05),
        lambda: decide(totals([5, 5], [2, 2]), delta=0),
        lambda: decide(totals([5, 5], [2, 2]), delta=0.05, indifference=1),
        lambda: decide(totals([5, 5], [6, 2]), delta=0.05),
        lambda: decide_normal(totals([5, 5], [2, 2]), delta=0.05, sigma=0, prior_mean=0, prior_sd=1),
        lambda: detect([], alpha=0.05),
        lambda: detect([totals([1], [1])], alpha=1),
    ],
)
def test_what_means_nothing_is_refused(refused):
    with pytest.raises(InvalidInput):
        refused()


def test_the_worked_drift_holds():
    found = detect([totals([10], [0]), totals([10], [10])], alpha=0.01)
    assert found.any
    assert found.log_evidence[0] == pytest.approx(9.6975, abs=1e-4)
    assert found.since.tolist() == [1]


def split_halves(buckets):
    """A planted bug: the two halves so far compared by a z-test at 5 %."""
    half = len(buckets) // 2
    first, second = (sum(part[1:], part[0]) for part in (buckets[:half], buckets[half:]))
    spread = first.variance / first.n + second.variance / second.n
    return bool((np.abs(first.mean - second.mean) > 1.96 * np.sqrt(spread)).any())


def alarms(rule, after, *, runs=150, buckets=24):
    """In how many runs the rule ever calls a change, looking after every bucket; two arms, one may change."""
    rng, found = np.random.default_rng(20260122), 0
    for _ in range(runs):
        rates = np.array([[0.3, 0.2]] * (buckets // 2) + [[after, 0.2]] * (buckets - buckets // 2))
        wins = rng.binomial(50, rates)
        seen = [totals([50, 50], row) for row in wins]
        found += any(rule(seen[:n]) for n in range(2, buckets + 1))
    return found


def test_drift_is_seldom_called_without_change_and_always_with_it():
    """At most alpha of 150 runs, 23 looks each; a correct rule fails with probability below 1e-6."""
    limit = stats.binom.ppf(1 - 1e-6, 150, 0.05)

    def rule(buckets):
        return detect(buckets, alpha=0.05).any

    assert alarms(rule, 0.3) <= limit
    assert alarms(split_halves, 0.3) > limit
    assert alarms(rule, 0.6, runs=20) == 20
