"""Posteriors against closed forms, Monte Carlo and the worked cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stats.bayesian import BetaPosterior, NormalPosterior, compare_effect, compare_proportions
from stats.errors import InvalidInput
from stats.estimate import Estimate
from stats.totals import ProportionTotals

parameters = st.floats(0.1, 1e6)
posteriors = st.builds(BetaPosterior, parameters, parameters)


def test_the_worked_cases_hold():
    uniform = BetaPosterior(1, 1)
    assert BetaPosterior(2, 1).probability_above(uniform) == pytest.approx(2 / 3, abs=1e-12)
    assert uniform.expected_shortfall(uniform) == pytest.approx(1 / 6, abs=1e-12)
    interval = uniform.difference_interval(uniform, alpha=0.5)
    assert (interval.lower, interval.upper) == pytest.approx((-1 + math.sqrt(0.5), 1 - math.sqrt(0.5)))
    assert BetaPosterior.from_totals(ProportionTotals(2, 1)) == BetaPosterior(2, 2)
    half = NormalPosterior.from_estimate(Estimate(2, 1), prior_mean=0, prior_sd=1)
    assert (half.mean, half.sd) == pytest.approx((1, math.sqrt(0.5)))
    assert NormalPosterior.from_estimate(Estimate(2, 1), prior_mean=0, prior_sd=math.inf) == NormalPosterior(
        2, 1
    )
    assert NormalPosterior(0, 1).expected_shortfall == pytest.approx(1 / math.sqrt(2 * math.pi))


def test_probability_has_its_closed_form_for_whole_parameters():
    """Cook (2003), Numerical computation of stochastic inequality probabilities: a finite sum."""
    a, b, c, d = 13, 40, 9, 45

    def log_beta(x, y):
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    # P(second > first) summed over the first parameter of the second.
    closed = sum(
        math.exp(log_beta(a + i, b + d) - math.log(d + i) - log_beta(1 + i, d) - log_beta(a, b))
        for i in range(c)
    )
    assert BetaPosterior(c, d).probability_above(BetaPosterior(a, b)) == pytest.approx(closed, abs=1e-10)


@settings(max_examples=40)
@given(posteriors, posteriors, st.floats(-0.9, 0.9))
def test_one_of_two_is_greater_and_losses_differ_by_the_means(first, second, margin):
    either = first.probability_above(second, margin=margin) + second.probability_above(first, margin=-margin)
    assert either == pytest.approx(1, abs=1e-8)
    gap = second.expected_shortfall(first) - first.expected_shortfall(second)
    assert gap == pytest.approx(first.mean - second.mean, abs=1e-9)


def test_monte_carlo_agrees():
    rng = np.random.default_rng(20260101 + 11)
    difference = rng.beta(121, 881, 400_000) - rng.beta(101, 901, 400_000)
    treatment, control = BetaPosterior(121, 881), BetaPosterior(101, 901)
    result = compare_proportions(treatment, control, alpha=0.05, e_value=1.7)
    assert result.probability_better == pytest.approx((difference > 0).mean(), abs=0.002)
    assert result.expected_loss == pytest.approx(np.maximum(-difference, 0).mean(), rel=0.02)
    expected = np.quantile(difference, [0.025, 0.975])
    assert (result.interval.lower, result.interval.upper) == pytest.approx(expected, abs=2e-4)
    assert result.e_value == 1.7


def test_a_billion_units_and_none_are_both_answered():
    many = BetaPosterior(5e8, 5e8 + 1e5), BetaPosterior(5e8, 5e8)
    normal = NormalPosterior(many[0].mean - 0.5, 0.5 * math.sqrt(2e-9))
    assert many[0].probability_above(many[1]) == pytest.approx(normal.probability_above(0), rel=1e-2)
    nothing = BetaPosterior.from_totals(ProportionTotals())
    assert nothing.probability_above(nothing) == pytest.approx(0.5)


def test_normal_loss_keeps_its_digits_far_out():
    # The asymptotic series phi(z) (1/z^2 - 3/z^4 + 15/z^6 - 105/z^8 + 945/z^10) at z = 20.
    terms = 1 / 20**2 - 3 / 20**4 + 15 / 20**6 - 105 / 20**8 + 945 / 20**10
    series = math.exp(-200) / math.sqrt(2 * math.pi) * terms
    assert NormalPosterior(20, 1).expected_shortfall == pytest.approx(series, rel=1e-6)
    below, above = (
        NormalPosterior(4.9999, 1).expected_shortfall,
        NormalPosterior(5.0001, 1).expected_shortfall,
    )
    assert below > above == pytest.approx(below, rel=2e-3)
    result = compare_effect(NormalPosterior(-1, 1), alpha=0.05, e_value=0.0)
    assert result.expected_loss == pytest.approx(1 + NormalPosterior(1, 1).expected_shortfall)


def test_what_is_no_posterior_is_refused():
    for wrong in (
        lambda: BetaPosterior(0, 1),
        lambda: NormalPosterior(0, 0),
        lambda: BetaPosterior(1, math.nan),
    ):
        with pytest.raises(InvalidInput):
            wrong()
    with pytest.raises(InvalidInput):
        compare_effect(NormalPosterior(0, 1), alpha=0.05, e_value=-1)
    with pytest.raises(InvalidInput):
        NormalPosterior.from_estimate(Estimate(1, 1), prior_mean=0, prior_sd=0)
