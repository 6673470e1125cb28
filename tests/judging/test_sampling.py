"""Sampling: reservoirs are uniform, flagged responses always chosen, weighted means unbiased."""

import math
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from app.judging import limits
from app.judging.budget import Budget, Spending, calls_max, plannable, room
from app.judging.sampling import boosted, chosen, coin, draw, is_repeated, point, salt_of

SALT = salt_of(1, "helpful")


def keys(n, seed=0):
    rng = np.random.default_rng(seed)
    return [UUID(bytes=rng.bytes(16), version=4) for _ in range(n)]


@given(st.floats(0, 1_000), st.integers(1, 1_000), st.floats(0, 1, exclude_max=True), st.integers(1, 2_000))
def test_a_draw_is_within_its_group_and_its_reservoir(planned, n_group, coin, reservoir_max):
    drawn = draw(planned, n_group, coin=coin, reservoir_max=reservoir_max)
    assert 0 <= drawn.n <= min(n_group, reservoir_max)
    assert 0 <= drawn.probability <= 1
    assert abs(drawn.n - drawn.probability * n_group) < 1


def test_the_number_drawn_is_right_on_average_below_one_response():
    """10,000 windows of 3 responses at rate 0.1:

    a correct rounding misses 5 sigma with P < 1e-6.
    """
    windows = 10_000
    drawn = [draw(0.3, 3, coin=coin(SALT, f"1/{number}/1/0"), reservoir_max=9).n for number in range(windows)]
    error = math.sqrt(0.3 * 0.7 / windows)
    assert abs(np.mean(drawn) - 0.3) < 5 * error


def test_a_reservoir_is_uniform():
    """Choose each of 20 places equally often; a planted bias for late places is seen."""
    windows, size, n = 2_000, 20, 5
    counts, biased = np.zeros(size), np.zeros(size)
    for number in range(windows):
        points = [point(SALT, key) for key in keys(size, seed=number)]
        for place in chosen(points, n):
            counts[place] += 1
        late = sorted(range(size), key=lambda place: points[place] * (1.1 - 0.01 * place))[:n]
        for place in late:
            biased[place] += 1
    # Without replacement the variance is smaller by (size - n) / (size - 1).
    scale = (size - 1) / (size - n)
    p_value = stats.chi2.sf(stats.chisquare(counts).statistic * scale, size - 1)
    assert p_value > 1e-6
    assert stats.chi2.sf(stats.chisquare(biased).statistic * scale, size - 1) < 1e-6


def test_a_sample_does_not_depend_on_the_order_of_arrival():
    arrived = keys(50)
    points = {key: point(SALT, key) for key in arrived}
    first = {arrived[place] for place in chosen([points[key] for key in arrived], 10)}
    backwards = arrived[::-1]
    assert {backwards[place] for place in chosen([points[key] for key in backwards], 10)} == first


def test_repeats_are_two_percent_and_depend_on_the_id_alone():
    repeated = [is_repeated(key) for key in keys(20_000)]
    error = math.sqrt(0.02 * 0.98 / 20_000)
    assert abs(np.mean(repeated) - limits.REPEAT_RATE) < 5 * error
    assert repeated == [is_repeated(key) for key in keys(20_000)]


def test_new_and_small_variants_are_oversampled():
    assert boosted(0.1, 1, {0: 5_000}, 2) == 0.5
    assert boosted(0.1, 0, {0: 5_000, 1: 5_000}, 2) == pytest.approx(0.1)
    assert boosted(0.1, 1, {0: 7_500, 1: 2_500}, 2) == pytest.approx(0.2)
    assert boosted(0.1, 1, {0: 99_000, 1: 1_000}, 2) == pytest.approx(0.5)
    assert boosted(0.1, 0, {}, 2) == 0.1
    assert boosted(0.5, 1, {0: 5_000}, 2) == 1.0


def weighted_mean(bound, *, seed, stop=False):
    """Return (Hájek mean, truth, error) of a day whose quality falls while its traffic rises.

    `stop` is the planted bug: the budget judges at the full rate, and then nothing.
    """
    rng = np.random.default_rng(seed)
    scores, weights, truth = [], [], []
    spending = Spending()
    for minute in range(0, 1_440, 10):
        n = int(rng.poisson(30 + minute / 30))
        quality = rng.random(n) < 0.9 - 0.7 * minute / 1_440  # the planted trend
        truth += quality.tolist()
        if not n:
            continue
        planned = plannable(
            bound,
            spending,
            rate=0.5,
            n=n,
            flagged=False,
            elapsed_s=minute * 60 + 600,
            left_s=(1_430 - minute) * 60,
        )
        if stop:
            planned = min(0.5 * n, max(0.0, bound - spending.planned))
        drawn = draw(planned, n, coin=float(rng.random()), reservoir_max=1_000)
        for place in rng.permutation(n)[: drawn.n]:
            scores.append(float(quality[place]))
            weights.append(1 / drawn.probability)
        spending = Spending(planned=spending.planned + drawn.n, eligible=spending.eligible + n)
    score, weight = np.array(scores), np.array(weights)
    mean = float((weight * score).sum() / weight.sum())
    error = math.sqrt(float((weight**2 * (score - mean) ** 2).sum())) / float(weight.sum())
    return mean, float(np.mean(truth)), error


@pytest.mark.parametrize("bound", [float("inf"), 2_000.0, 400.0])
def test_a_budget_that_runs_short_at_midday_does_not_bias_the_weighted_mean(bound):
    """300 days: the mean of the standardised errors stays within 4 of its own sigmas."""
    days = [weighted_mean(bound, seed=seed) for seed in range(300)]
    standardised = np.array([(mean - truth) / error for mean, truth, error in days])
    assert abs(standardised.mean()) < 4 * standardised.std() / math.sqrt(len(days))
    if bound < 4_000:
        stopped = [weighted_mean(bound, seed=seed, stop=True) for seed in range(30)]
        wrong = np.array([(mean - truth) / error for mean, truth, error in stopped])
        assert abs(wrong.mean()) > 4 * wrong.std() / math.sqrt(len(wrong))


@given(st.floats(0, 2_000), st.integers(0, 2_000), st.integers(1, 500), st.floats(0.01, 1), st.booleans())
def test_a_plan_never_passes_its_budget_nor_its_rate(bound, planned, n, rate, flagged):
    spending = Spending(planned=planned, eligible=planned)
    wanted = plannable(bound, spending, rate=rate, n=n, flagged=flagged, elapsed_s=3_600, left_s=40_000)
    assert 0 <= wanted <= rate * n + 1e-9
    assert wanted <= max(0.0, bound - planned) + 1e-6


def test_an_unknown_price_is_a_cap_on_calls():
    budget = Budget(usd_per_day=5.0)
    unknown = Spending(calls=10, unpriced=10)
    assert calls_max(budget, Spending(), priced=False, cost_per_call=None) == limits.UNPRICED_CALLS_MAX
    assert calls_max(budget, unknown, priced=True, cost_per_call=None) <= limits.UNPRICED_CALLS_MAX
    assert calls_max(budget, Spending(), priced=True, cost_per_call=0.002) == pytest.approx(2_500)
    assert calls_max(Budget(), Spending(), priced=False, cost_per_call=None) == math.inf
    used_up = Spending(calls=limits.UNPRICED_CALLS_MAX, unpriced=limits.UNPRICED_CALLS_MAX)
    assert room(budget, used_up, leased=0, priced=False, cost_per_call=0.0) == 0
    assert room(Budget(usd_per_day=0.0), Spending(), leased=0, priced=False, cost_per_call=0.0) == 0


def test_calls_that_run_count_against_the_budget():
    budget = Budget(usd_per_day=1.0)
    spending = Spending(calls=90, cost_usd=0.89, dearest_usd=0.01)
    assert room(budget, spending, leased=0, priced=True, cost_per_call=0.01) == 8
    assert room(budget, spending, leased=8, priced=True, cost_per_call=0.01) == 0
    assert room(Budget(), spending, leased=8, priced=True, cost_per_call=0.01) is None
    assert room(Budget(usd_per_day=1.0), Spending(), leased=0, priced=True, cost_per_call=0.0) is None
