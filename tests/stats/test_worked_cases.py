"""Cases worked by hand that stand in docstrings, and kernels against scipy or their own integrals."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from stats import adaptive, sequences, srm, tails
from stats.adaptive import ArmArrays, ArmPeriod
from stats.bounded import log_gamma_mixture
from stats.errors import InvalidInput
from stats.group_sequential import crossings, spent
from stats.interval import Interval
from stats.one_sided import OneSided
from stats.prediction_powered import JudgedTotals, prediction_powered_mean
from stats.proportions import difference_of_bounds
from stats.quantiles import QuantileSketch
from stats.totals import MeanTotals
from stats.variance_reduction import regression_coefficients


def test_units_and_variances_of_sequences():
    assert sequences.effective_units(1_000, 1_000) == 500
    assert sequences.effective_units(950, 50) == pytest.approx(47.5)
    assert float(sequences.raised_variance(2.0, 10_000)) == pytest.approx(2.2)
    of_control, of_treatment = sequences.shrunk_variances(1_000, 0.0, 1_000, 1_998.0)
    assert float(of_control) == pytest.approx(1_000 / 1_999)
    assert float(of_treatment) == pytest.approx(2_998 / 1_999)


def test_scores_of_one_pull_among_two_assignments():
    arm = ArmArrays.of(
        [ArmPeriod.event(1.0, propensity=0.5, share=0.5) + ArmPeriod.event(None, propensity=0.5, share=0.5)]
    )
    total, squares = arm.score_sums(np.array([0.5]))
    assert (float(total[0]), float(squares[0])) == (2.0, 0.5**2 + 1.5**2)


def test_ipw_is_horvitz_and_thompsons_mean_with_a_larger_error():
    """400 assignments, 200 pulls at 1/2, half of them with reward 1: scores 2, 0, 0, 0 in equal parts."""
    half = [ArmPeriod.constant(400, 0.5, MeanTotals.from_sums(200, 100, 100))]
    aipw, ipw = (adaptive.adaptive_mean(half, scores=scores) for scores in ("aipw", "ipw"))
    assert ipw.value == aipw.value == pytest.approx(0.5)
    assert ipw.standard_error == pytest.approx(aipw.standard_error * math.sqrt(3 / 2))
    assert ipw.standard_error == pytest.approx(math.sqrt(3 / 4 / 400 * (1 + 3 / math.sqrt(200))))
    other = [ArmPeriod.constant(400, 0.5, MeanTotals.from_sums(200, 140, 140))]
    difference = adaptive.adaptive_difference(half, other, scores="ipw")
    assert difference.value == pytest.approx(2 * 140 / 400 - 2 * 100 / 400)


def test_ipw_covers_at_its_look_under_moving_propensities():
    """Propensities 0.5, then 0.2 or 0.8 by what came; limit: binomial, 1e-6 at 0.05. Planted: plain means."""
    rng, runs = np.random.default_rng(20260101), 600
    missed, naive_bias = 0, []
    for _ in range(runs):
        first = rng.random(100) < 0.5
        seen = rng.random(100) < 0.3
        share = 0.9 if seen[first].mean() > 0.3 else 0.1
        second = rng.random(900) < share
        later = rng.random(900) < 0.3
        periods = []
        for pulled, reward, propensity in ((first, seen, 0.5), (second, later, share)):
            hits = int(reward[pulled].sum())
            totals = MeanTotals.from_sums(int(pulled.sum()), hits, hits)
            periods.append(ArmPeriod.constant(len(pulled), propensity, totals))
        found = adaptive.adaptive_mean(periods, weights="uniform", scores="ipw").interval(alpha=0.05)
        missed += not found.lower <= 0.3 <= found.upper
        naive_bias.append(np.concatenate([seen[first], later[second]]).mean() - 0.3)
    assert missed <= stats.binom.ppf(1 - 1e-6, runs, 0.05)
    assert np.mean(naive_bias) < -3 * np.std(naive_bias) / math.sqrt(runs)  # what it is for


def test_bounds_of_a_difference_and_coefficients_of_a_regression():
    found = difference_of_bounds(10.0, Interval(8.0, 13.0), 6.0, Interval(5.0, 9.0))
    assert found == Interval(4 - math.sqrt(13), 4 + math.sqrt(10))
    assert regression_coefficients(np.array([[8.0, 4.0], [4.0, 4.0]])) == pytest.approx([1.0])


def test_a_relative_effect_there_and_back():
    found = OneSided.of((MeanTotals(1_000, 1.0, 999.0), MeanTotals(1_000, 1.1, 999 * 1.21)), relative=True)
    assert found.unscaled(found.scaled(0.07)) == pytest.approx(0.07)
    assert found.unscaled(found.effect) == pytest.approx(0.1)
    with pytest.raises(InvalidInput):
        found.scaled(-1.0)


def test_ranks_of_a_sketch():
    sketch = QuantileSketch.from_observations(np.array([1.0, 2.0, 4.0]), accuracy=1 / 3)
    lower, upper = sketch.order_statistic(2)
    assert lower < 2 <= upper == pytest.approx(2 * lower)
    for rank in (0, 4):
        with pytest.raises(InvalidInput):
            sketch.order_statistic(rank)


def test_a_perfect_judge_gains_labels_and_its_mean_is_that_of_the_scores():
    judge = np.tile([1.0, 0.0], 50)
    human = np.where(np.arange(100) < 20, judge, np.nan)
    noisy = np.where(np.arange(100) == 3, 1.0, human)
    found = prediction_powered_mean(JudgedTotals.from_observations(judge, noisy, np.full(100, 0.2)))
    assert found.label_gain == pytest.approx(found.labels_alone.variance / found.mean.variance)
    assert found.label_gain > 1.5


def test_alpha_is_spent_and_crossed_as_by_hand():
    assert spent(0.5, alpha=0.025, spending="pocock") == pytest.approx(0.025 * math.log(1 + (math.e - 1) / 2))
    assert spent(1.0, alpha=0.025, spending="obrien-fleming") == pytest.approx(0.025)
    found = crossings([1.0], [1.959964], drift=0.0)
    assert (found.lower, found.upper) == (
        pytest.approx((0.025,), rel=1e-6),
        pytest.approx((0.025,), rel=1e-6),
    )


@pytest.mark.parametrize(("score", "variance"), [(0.0, 0.0), (3.0, 1.0), (12.0, 5.0), (-1.0, 4.0)])
def test_the_gamma_mixture_is_its_integral(score, variance):
    """Over u = 1 - s, Gamma(rho, rate rho) cut to (0, 1], of u^V exp((1 - u) (S + V))."""
    rho = 2.5
    prior = stats.gamma(rho, scale=1 / rho)

    def integrand(u):
        return prior.pdf(u) / prior.cdf(1.0) * u**variance * math.exp((1 - u) * (score + variance))

    value, _ = integrate.quad(integrand, 0.0, 1.0)
    assert log_gamma_mixture(score, variance, rho) == pytest.approx(math.log(value), abs=1e-8)


def test_the_mixture_of_tilts_is_an_average_of_likelihood_ratios():
    """Its expectation over all outcomes of three draws is 1, whatever the probabilities."""
    p = np.array([[0.2, 0.8], [0.5, 0.5]])
    mean = 0.0
    for first in range(3):
        for second in range(2):
            counts = np.array([[first, 2 - first], [second, 1 - second]])
            likelihood = stats.binom.pmf(first, 2, 0.2) * stats.binom.pmf(second, 1, 0.5)
            mean += likelihood * math.exp(float(srm.log_tilt_mixture(counts, p)))
    assert mean == pytest.approx(1)


@pytest.mark.parametrize(("k", "n", "p"), [(0, 10, 0.3), (3, 10, 0.3), (10, 10, 0.3), (400, 1_000, 0.41)])
def test_binomial_tails_agree_with_scipy(k, n, p):
    assert tails.log_binomial_lower(k, n, p) == pytest.approx(stats.binom.logcdf(k, n, p), abs=1e-10)
    assert tails.log_binomial_upper(k, n, p) == pytest.approx(stats.binom.logsf(k - 1, n, p), abs=1e-10)


def test_a_chi_square_far_out_has_the_logarithm_of_its_normal_tail():
    """With one degree of freedom it is the square of a normal: log 2 + log P(Z > sqrt(x))."""
    for x in (3.84, 700.0, 5e3, 1e8):
        expected = math.log(2) + tails.log_normal_upper(math.sqrt(x))
        assert tails.log_chi_square_upper(x, 1) == pytest.approx(expected, rel=1e-9)
