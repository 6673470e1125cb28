"""Proportions against published and independent values, at the edges, and non-inferiority by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint, proportions_ztest

from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.interval import Interval
from stats.proportions import (
    difference_of_bounds,
    exact_interval,
    restricted_proportions,
    score_interval,
    score_test,
)
from stats.totals import ProportionTotals as P

arms = st.integers(1, 200).flatmap(lambda n: st.builds(P, st.just(n), st.integers(0, n)))


Z2 = 0.04550026389635842  # alpha at which the normal quantile is 2


def bounds(interval):
    return interval.lower, interval.upper


def test_the_worked_cases_hold():
    assert bounds(exact_interval(P(1, 0), alpha=0.05)) == pytest.approx((0, 0.975))
    assert score_test(P(100, 30), P(100, 20)).statistic == pytest.approx(1.632993, rel=1e-6)
    empty = score_interval(P(50, 0), P(50, 0), alpha=Z2, variance="farrington-manning")
    assert bounds(empty) == pytest.approx((-4 / 54, 4 / 54), rel=1e-6)
    assert restricted_proportions((0, 9), (0, 9), 0.1) == pytest.approx((0.1, 0))


@given(arms, st.floats(0.001, 0.3))
def test_one_proportion_agrees_with_statsmodels(arm, alpha):
    reference = proportion_confint(arm.successes, arm.n, alpha=alpha, method="beta")
    assert bounds(exact_interval(arm, alpha=alpha)) == pytest.approx(reference, rel=1e-7, abs=1e-9)


@given(arms, arms)
def test_the_difference_agrees_with_statsmodels(treatment, control):
    counts = (treatment.successes, treatment.n, control.successes, control.n)
    if 0 < treatment.successes + control.successes < treatment.n + control.n:
        z, p = proportions_ztest(counts[::2], counts[1::2])
        test = score_test(treatment, control)
        assert (test.statistic, test.p_value) == pytest.approx((z, p), rel=1e-9, abs=1e-12)


# Newcombe (1998), Statistics in Medicine 17, Table II: method 5 (Mee's, without N / (N - 1)).
@pytest.mark.parametrize(
    ("counts", "mee"),
    [
        ((56, 70, 48, 80), (0.0533, 0.3377)),
        ((9, 10, 3, 10), (0.1821, 0.8370)),
        ((5, 56, 0, 29), (-0.0313, 0.1926)),
        ((0, 10, 0, 10), (-0.2775, 0.2775)),
        ((10, 10, 0, 10), (0.6777, 1.0)),
    ],
)
def test_published_intervals_are_reproduced(counts, mee):
    treatment, control = P(counts[1], counts[0]), P(counts[3], counts[2])
    ours = score_interval(treatment, control, alpha=0.05, variance="farrington-manning")
    assert bounds(ours) == pytest.approx(mee, abs=2e-4)


@given(arms, arms, st.floats(-0.9, 0.9))
def test_restricted_proportions_are_the_most_likely(treatment, control, difference):
    first = (treatment.successes, treatment.n - treatment.successes)
    second = (control.successes, control.n - control.successes)
    p, q = restricted_proportions(first, second, difference)
    assert p - q == pytest.approx(difference, abs=1e-12)

    def log_likelihood(at):
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = (
                (first[0], at + difference),
                (first[1], 1 - at - difference),
                (second[0], at),
                (second[1], 1 - at),
            )
            return sum(np.where(count > 0, count * np.log(share), 0.0) for count, share in parts)

    grid = np.linspace(max(0, -difference) + 1e-9, min(1, 1 - difference) - 1e-9, 101)
    near = min(max(q, grid[0]), grid[-1])
    assert (log_likelihood(near) >= log_likelihood(grid) - 1e-6).all()


@settings(max_examples=40)
@given(arms, arms, st.floats(-0.5, 0.5), st.sampled_from(["farrington-manning", "miettinen-nurminen"]))
def test_the_score_interval_is_its_test_and_swapping_arms_flips_it(treatment, control, null, variance):
    interval = score_interval(treatment, control, alpha=0.05, variance=variance)
    mirrored = score_interval(control, treatment, alpha=0.05, variance=variance)
    assert bounds(interval) == pytest.approx((-mirrored.upper, -mirrored.lower), abs=1e-8)
    wider = score_interval(treatment, control, alpha=0.01, variance=variance)
    assert wider.lower <= interval.lower + 1e-9
    assert interval.upper - 1e-9 <= wider.upper
    try:
        p = score_test(treatment, control, null=null, variance=variance).p_value
    except InsufficientData:
        return
    if abs(p - 0.05) > 1e-6:
        assert (p > 0.05) == (interval.lower < null < interval.upper)


def test_a_billion_units_keep_their_digits():
    score = score_interval(P(10**9, 10**9), P(10**9, 1), alpha=0.05)
    assert 0 < 1 - score.lower < 1e-8


def test_without_units_or_without_any_variance_there_is_no_answer():
    with pytest.raises(InsufficientData, match="no variance"):
        score_test(P(10, 0), P(10, 0))
    assert score_test(P(10, 0), P(10, 0), null=-0.1).statistic == pytest.approx(0.1 / (0.1 * 0.9 / 10) ** 0.5)
    with pytest.raises(InsufficientData):
        score_interval(P(0, 0), P(10, 1), alpha=0.05)
    with pytest.raises(InvalidInput):
        score_test(P(10, 1), P(10, 1), null=1.5)


def test_the_non_inferiority_test_keeps_alpha_at_its_margin():
    """A treatment worse by exactly the margin: at most alpha of trials may call it not inferior.

    Exact rejection probabilities, by summing over all outcomes of 20 against 60 units: 0.039. A Wald test,
    with the variance as observed, has 0.101.
    """
    n, m, p, margin = 20, 60, 0.9, 0.1

    def error(rejects):
        weight = binom.pmf(np.arange(n + 1), n, p - margin)[:, None] * binom.pmf(np.arange(m + 1), m, p)
        return sum(weight[x, y] for x in range(n + 1) for y in range(m + 1) if rejects(P(n, x), P(m, y)))

    def score(treatment, control):
        return score_test(treatment, control, null=-margin, alternative="greater").p_value <= 0.05

    def wald(treatment, control):
        try:
            arms = [arm.moments for arm in (treatment, control)]
            variance = sum(arm.m2 / arm.n**2 for arm in arms)
            effect = Estimate(arms[0].mean - arms[1].mean, variance**0.5)
        except InsufficientData:
            return treatment.mean > control.mean - margin
        return effect.test(null=-margin, alternative="greater").p_value <= 0.05

    assert error(score) <= 0.05
    assert error(wald) > 0.05  # planted bug


def test_bounds_of_a_difference_worked_by_hand():
    found = difference_of_bounds(10.0, Interval(8.0, 13.0), 6.0, Interval(5.0, 9.0))
    assert found == Interval(4 - math.sqrt(13), 4 + math.sqrt(10))
