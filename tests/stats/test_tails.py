"""Logarithms of tails against scipy and the sums of their terms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.stats import binom

from stats import tails


# By scipy 1.17, t.logsf and norm.logsf, where these do not underflow; the last in closed form.
@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (lambda: tails.log_student_upper(1e5, 70), -660.254206779139),
        (lambda: tails.log_student_upper(40, math.inf), -804.6084420137539),
        (lambda: tails.log_student_upper(3, 5), -4.196402274894688),
        (lambda: tails.log_chi_square_upper(3000, 4), None),
    ],
)
def test_tails_keep_their_logarithm_where_probabilities_underflow(ours, reference):
    if reference is None:  # With 4 degrees of freedom the tail is exp(-x/2) (1 + x/2).
        reference = -1500 + math.log(1501)
    assert ours() == pytest.approx(reference, rel=1e-11)


@given(st.integers(1, 10**9), st.floats(0, 1), st.floats(1e-9, 1 - 1e-9))
def test_quantiles_of_counts_are_where_scipys_distribution_passes_the_probability(n, p, probability):
    k = tails.binomial_quantile(probability, n, p)
    assert binom.cdf(k, n, p) >= probability * (1 - 1e-9)
    assert binom.cdf(k - 1, n, p) < probability * (1 + 1e-9)
    k = tails.binomial_upper_quantile(probability, n, p)
    assert binom.sf(k, n, p) <= probability * (1 + 1e-9)
    assert k == 0 or binom.sf(k - 1, n, p) > probability * (1 - 1e-9)


def test_quantiles_of_counts_hold_in_the_worked_cases():
    assert tails.binomial_quantile(0.025, 10, 0.5) == 2
    assert tails.binomial_upper_quantile(0.025, 10, 0.5) == 8
    assert (tails.binomial_quantile(0.5, 7, 0.0), tails.binomial_quantile(0.5, 7, 1.0)) == (0, 7)


def test_many_degrees_of_freedom_approach_the_normal():
    # To first order log P differs by t^4 / (4 df).
    near = tails.log_student_upper(40, 1e8) - tails.log_student_upper(40, math.inf)
    assert near == pytest.approx(40**4 / 4e8, rel=1e-2)


@given(st.floats(-8, 8), st.floats(1, 1e5))
def test_tails_agree_with_scipy_where_it_has_digits(t, freedom):
    """scipy itself is off by 3e-9 at t = 1e-8 and one degree: log(1/2 - t / pi) is -0.6931471869."""
    reference = float(scipy_stats.t.logsf(t, freedom))
    assert tails.log_student_upper(t, freedom) == pytest.approx(reference, rel=1e-8, abs=1e-12)


def test_a_chi_square_far_out_has_the_logarithm_of_its_normal_tail():
    """With one degree of freedom it is the square of a normal: log 2 + log P(Z > sqrt(x))."""
    for x in (3.84, 700.0, 5e3, 1e8):
        expected = math.log(2) + tails.log_normal_upper(math.sqrt(x))
        assert tails.log_chi_square_upper(x, 1) == pytest.approx(expected, rel=1e-9)


@given(st.floats(0, 60), st.integers(1, 30), st.floats(1, 1e3))
def test_the_upper_tail_of_f_agrees_with_scipy(x, numerator, denominator):
    reference = float(scipy_stats.f.logsf(x, numerator, denominator))
    assert tails.log_f_upper(x, numerator, denominator) == pytest.approx(reference, rel=1e-6, abs=1e-9)
