"""Wald's test against gsDesign, simulation and cases worked by hand."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stats import sprt
from stats.sprt import BernoulliSprt, NormalSprt, TwoArmSprt, WaldLimits
from stats.totals import MeanTotals, ProportionTotals

# gsDesign's binomialSPRT, exact: p0, p1, alpha, beta, type I, power, mean n under p0 and p1.
GSDESIGN = [
    (0.10, 0.12, 0.05, 0.20, 0.0470, 0.8016, 683.4, 933.8),
    (0.05, 0.10, 0.05, 0.05, 0.0395, 0.951, 163.4, 140.1),
    (0.50, 0.60, 0.05, 0.05, 0.0463, 0.954, 135.1, 136.6),
    (0.02, 0.04, 0.05, 0.10, 0.0396, 0.900, 323.1, 327.6),
    (0.10, 0.30, 0.02, 0.03, 0.0137, 0.973, 29.9, 26.6),
]


@pytest.mark.parametrize(("p0", "p1", "alpha", "beta", "type_one", "power", "n0", "n1"), GSDESIGN)
def test_the_binomial_sprt_has_the_operating_characteristic_of_gsdesign(
    p0, p1, alpha, beta, type_one, power, n0, n1
):
    test = BernoulliSprt(p0, (p1,), WaldLimits(alpha, beta))
    null, alternative = test.operating_characteristic(p0), test.operating_characteristic(p1)
    assert null.reject == pytest.approx(type_one, abs=6e-5)
    assert alternative.reject == pytest.approx(power, abs=6e-4)
    assert (null.expected_n, alternative.expected_n) == pytest.approx((n0, n1), abs=0.06)


def test_walds_approximation_has_its_published_values():
    test = BernoulliSprt(0.10, (0.12,), WaldLimits(0.05, 0.20))
    assert test.wald_approximation(0.10).expected_n == pytest.approx(673.0, abs=0.05)
    assert test.wald_approximation(0.12).expected_n == pytest.approx(906.8, abs=0.05)
    # 51 % saved at the hypotheses, and 217 against 271 observations midway, for an effect of 0.2 sd.
    normal = NormalSprt(0, 0.2, 1, WaldLimits(0.05, 0.05))
    fixed = (2 * 1.6449 / 0.2) ** 2
    assert normal.wald_approximation(0).expected_n / fixed == pytest.approx(0.49, abs=0.005)
    assert normal.wald_approximation(0.1).expected_n == pytest.approx(217, abs=0.5)


def test_the_normal_sprt_agrees_with_simulation_one_and_two_sided_and_truncated():
    rng = np.random.default_rng(20260101)
    sums = np.cumsum(rng.normal(0.3, 1, (10_000, 400)), axis=1)
    n = np.arange(1, 401)
    limits = WaldLimits(0.05, 0.10)
    for two_sided, n_max in ((False, None), (True, None), (False, 40), (True, 40)):
        test = NormalSprt(0, 0.3, 1, limits, two_sided=two_sided, n_max=n_max)
        ratio = 0.3 * sums - n * 0.045
        if two_sided:
            ratio = np.logaddexp(0.3 * sums, -0.3 * sums) - math.log(2) - n * 0.045
        end = n_max or 400
        out = (ratio >= limits.upper) | (ratio <= limits.lower)
        out[:, end - 1] = True
        first = out.argmax(axis=1)
        last = ratio[np.arange(len(ratio)), first]
        rejected = (last >= limits.upper) | ((first == end - 1) & (last > 0))
        exact = test.operating_characteristic(0.3)
        assert exact.reject == pytest.approx(rejected.mean(), abs=0.014)
        assert exact.expected_n == pytest.approx((first + 1).mean(), rel=0.03)
        assert exact.reject + exact.accept == pytest.approx(1, abs=1e-8)


def test_sprts_worked_by_hand():
    assert WaldLimits(0.05, 0.05).upper == pytest.approx(math.log(19))
    limits = WaldLimits(0.05, 0.05)
    assert BernoulliSprt(0.5, (0.75,), limits).log_ratio(ProportionTotals(3, 3)) == pytest.approx(
        3 * math.log(1.5)
    )
    assert NormalSprt(0, 1, 1, limits).log_ratio(MeanTotals(4, 1.0, 0.0)) == pytest.approx(2)
    assert NormalSprt(0, 1, 1, limits, n_max=4).decide(MeanTotals(4, 0.6, 0.0)) == "reject"
    assert NormalSprt(0, 1, 1, limits).decide(MeanTotals(4, 0.6, 0.0)) == "continue"
    equal = ProportionTotals(10**9, 5 * 10**8)
    assert TwoArmSprt(0.001, limits).log_ratio(equal, equal) == pytest.approx(-(10**9) * 1e-6, rel=1e-3)
    assert TwoArmSprt(0.1, limits).decide(ProportionTotals(), equal) == "continue"


def test_the_profile_likelihood_has_its_maximum_where_scipy_finds_it():
    def likelihood(base, effect):
        arms = ((100, 12, base), (40, 9, base + effect))
        return sum(scipy_stats.binom.logpmf(s, n, p) for n, s, p in arms)

    grid = np.linspace(1e-4, 0.85, 200_001)
    want = likelihood(grid, 0.1).max() - likelihood(grid, 0.0).max()
    assert float(sprt.profile_log_ratio(100, 12, 40, 9, effect=0.1)) == pytest.approx(want, abs=1e-8)
