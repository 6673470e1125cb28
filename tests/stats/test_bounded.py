"""Exact sequences of bounded values: worked by hand, confseq, and what they refuse."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy import stats as scipy_stats

from stats import bounded
from stats.bounded import (
    BernsteinSums,
    bounded_sequence,
    log_gamma_mixture,
)
from stats.errors import InvalidInput
from stats.interval import Interval
from stats.totals import MeanTotals, ProportionTotals


# confseq, bernoulli_confidence_interval(s, n, alpha=0.05, t_opt=1000).
@pytest.mark.parametrize(
    ("successes", "n", "lower", "upper"),
    [(0, 100, 0, 0.103952), (5, 1_000, 0.000628, 0.014677), (500, 1_000, 0.4520916, 0.5479084)],
)
def test_the_exact_sequence_is_close_to_that_of_confseq(successes, n, lower, upper):
    found = bounded.bounded_sequence(ProportionTotals(n, successes), alpha=0.05, tuned_to=1_000)
    assert (found.lower, found.upper) == pytest.approx((lower, upper), rel=0.03, abs=1e-9)


def test_the_beta_mixture_is_its_integral():
    q = (np.arange(400_000) + 0.5) / 400_000
    prior = scipy_stats.beta.pdf(q, 5 * 0.3, 5 * 0.7)
    ratio = (q / 0.3) ** 4 * ((1 - q) / 0.7) ** 6
    assert float(bounded.log_beta_mixture(4, 10, 0.3, weight=5)) == pytest.approx(
        math.log((prior * ratio).mean()), abs=1e-4
    )
    above = q > 0.3
    want = (prior * ratio)[above].sum() / prior[above].sum()
    found = bounded.log_beta_mixture(4, 10, 0.3, weight=5, alternative="greater")
    assert float(found) == pytest.approx(math.log(want), abs=1e-3)


@pytest.mark.parametrize("totals", [ProportionTotals(1, 0), ProportionTotals(1, 1), ProportionTotals(2, 1)])
def test_one_or_two_units_say_nothing_about_a_proportion(totals):
    assert bounded_sequence(totals, alpha=0.05, tuned_to=1_000) == Interval(0, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 10**9), st.sampled_from([100, 10_000]))
def test_the_exact_sequence_contains_what_was_seen_mirrors_and_widens(successes, n, tuned_to):
    successes = min(successes, n)
    found = bounded_sequence(ProportionTotals(n, successes), alpha=0.05, tuned_to=tuned_to)
    assert 0 <= found.lower <= successes / n <= found.upper <= 1
    assert found.lower < found.upper
    mirrored = bounded_sequence(ProportionTotals(n, n - successes), alpha=0.05, tuned_to=tuned_to)
    assert mirrored.lower == pytest.approx(1 - found.upper, abs=1e-6)
    wider = bounded_sequence(ProportionTotals(n, successes), alpha=0.001, tuned_to=tuned_to)
    assert wider.lower <= found.lower + 1e-9
    assert wider.upper >= found.upper - 1e-9


def test_one_sided_sequences_bound_one_side():
    totals = ProportionTotals(1_000, 300)
    low = bounded_sequence(totals, alpha=0.05, tuned_to=1_000, alternative="greater")
    high = bounded_sequence(totals, alpha=0.05, tuned_to=1_000, alternative="less")
    both = bounded_sequence(totals, alpha=0.05, tuned_to=1_000)
    assert (low.upper, high.lower) == (1, 0)
    assert both.lower < low.lower < 0.3 < high.upper < both.upper


def test_bernstein_sums_take_batches_and_refuse_what_is_not_within_bounds():
    state = BernsteinSums().after(MeanTotals(2, 0.5, 0.5))
    assert state == BernsteinSums(2, 1.0, 0.5)
    assert BernsteinSums().interval(alpha=0.05, tuned_to=10) == Interval(0, 1)
    with pytest.raises(InvalidInput):
        state.after(MeanTotals(2, 1.5, 0.0))
    with pytest.raises(InvalidInput, match="too large"):
        state.after(MeanTotals(2, 0.5, 3.0))
    x = np.random.default_rng(20260101).beta(1, 9, 20_000)
    for batch in np.split(x, 200):
        state = state.after(MeanTotals(100, float(batch.mean()), float(((batch - batch.mean()) ** 2).sum())))
    narrow = state.interval(alpha=0.05, tuned_to=20_000)
    wide = bounded_sequence(MeanTotals(20_000, float(x.mean()), 1.0), alpha=0.05, tuned_to=20_000)
    assert wide.lower < narrow.lower < 0.1 < narrow.upper < wide.upper


@pytest.mark.parametrize(("score", "variance"), [(0.0, 0.0), (3.0, 1.0), (12.0, 5.0), (-1.0, 4.0)])
def test_the_gamma_mixture_is_its_integral(score, variance):
    """Over u = 1 - s, Gamma(rho, rate rho) cut to (0, 1], of u^V exp((1 - u) (S + V))."""
    rho = 2.5
    prior = stats.gamma(rho, scale=1 / rho)

    def integrand(u):
        return prior.pdf(u) / prior.cdf(1.0) * u**variance * math.exp((1 - u) * (score + variance))

    value, _ = integrate.quad(integrand, 0.0, 1.0)
    assert log_gamma_mixture(score, variance, rho) == pytest.approx(math.log(value), abs=1e-8)
