"""Sequential methods against published figures, independent packages and cases worked by hand."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stats import bounded, mixture, sequences, sequential_counts, sprt, srm
from stats.group_sequential import GroupSequentialPlan
from stats.sequential_counts import EventCounts, likeliest_ratio, log_ratio_mixture, ratio_evalue
from stats.sprt import BernoulliSprt, NormalSprt, TwoArmSprt, WaldLimits
from stats.srm import ArmCounts
from stats.totals import MeanTotals, ProportionTotals
from stats.yeast import Yeast

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


# rpact 3.3.4, getDesignGroupSequential(alpha = 0.025, sided = 1, typeOfDesign = "asOF" / "asP").
RPACT = [
    ("obrien-fleming", (0.2, 0.4, 0.6, 0.8, 1), (4.876885, 3.357012, 2.680280, 2.289817, 2.031032)),
    ("pocock", (0.2, 0.4, 0.6, 0.8, 1), (2.437977, 2.426814, 2.410194, 2.396649, 2.386000)),
    (
        "obrien-fleming",
        (0.1, 0.35, 0.4, 0.9, 1),
        (6.991351707, 3.612788744, 3.391254507, 2.096771799, 2.054222383),
    ),
    ("pocock", (0.1, 0.35, 0.4, 0.9, 1), (2.655110048, 2.386621676, 2.553745903, 2.226065464, 2.377189435)),
]


@pytest.mark.parametrize(("spending", "fractions", "bounds"), RPACT)
def test_boundaries_are_those_of_rpact_on_either_side_alone(spending, fractions, bounds):
    plan = GroupSequentialPlan(0.025, spending, "greater")
    assert plan.boundaries(fractions) == pytest.approx(bounds, abs=2e-6)
    two_sided = GroupSequentialPlan(0.05, spending)
    assert two_sided.power(fractions, drift=0) == pytest.approx(0.05, abs=1e-8)


def test_inflation_power_and_expected_information_are_the_published_ones():
    fifths = [k / 5 for k in range(1, 6)]
    obf, pocock = GroupSequentialPlan(0.05), GroupSequentialPlan(0.05, "pocock")
    # rpact 3.3.4: getDesignCharacteristics()$inflationFactor.
    one_sided = [GroupSequentialPlan(0.025, plan.spending, "greater") for plan in (obf, pocock)]
    assert one_sided[0].inflation(fifths, power=0.8) == pytest.approx(1.02472, abs=2e-5)
    assert one_sided[1].inflation(fifths, power=0.8) == pytest.approx(1.212613, abs=2e-5)
    drift = scipy_stats.norm.ppf(0.975) + scipy_stats.norm.ppf(0.8)
    assert obf.power(fifths, drift=drift) == pytest.approx(0.790, abs=6e-4)
    assert obf.expected_fraction(fifths, drift=drift) == pytest.approx(0.81, abs=6e-3)
    assert pocock.power(fifths, drift=drift) == pytest.approx(0.716, abs=8e-4)


def test_the_estimate_after_stopping_is_that_of_rpact():
    # rpact 3.3.4, getFinalConfidenceInterval: 2 of 5 stages of 100, mean 0.3, overall sd sqrt(198 / 199).
    z = 0.3 * math.sqrt(200 / (198 / 199))
    plan = GroupSequentialPlan(0.025, "obrien-fleming", "greater")
    assert plan.adjusted_p_value(z, [0.2, 0.4]) == pytest.approx(1.097452e-05, rel=1e-4)
    information = 500 / (198 / 199)
    assert plan.median_unbiased(z, [0.2, 0.4], information=information) == pytest.approx(0.2999162, abs=2e-5)
    interval = GroupSequentialPlan(0.05).adjusted_interval(z, [0.2, 0.4], information=information)
    assert (interval.lower, interval.upper) == pytest.approx((0.1615985, 0.4381867), abs=5e-5)
    repeated = GroupSequentialPlan(0.05).repeated_interval(0.3, 0.1, [0.2, 0.4])
    assert repeated.upper - 0.3 == pytest.approx(0.3357012, abs=1e-6)


def test_a_single_look_is_the_fixed_test():
    plan = GroupSequentialPlan(0.05)
    assert plan.boundaries([1.0]) == pytest.approx([1.959964], abs=1e-6)
    assert plan.adjusted_p_value(1.959964, [1.0]) == pytest.approx(0.05, abs=1e-7)
    assert plan.inflation([1.0], power=0.9) == pytest.approx(1)


def test_yeast_reflects():
    assert Yeast(0.05).boundary == pytest.approx(2.2414, abs=5e-5)
    assert Yeast(0.05).power(0) == pytest.approx(0.05)
    # Evan Miller's 2 sqrt(N) rule, one-sided: 2 (1 - Phi(2)) = 0.0455.
    assert Yeast(0.05, "greater").p_value(2.0) == pytest.approx(0.0455, abs=5e-5)
    assert Yeast(0.05).power(2.8016) == pytest.approx(0.780, abs=0.004)
    assert Yeast(0.05, "less").rejects(-3.0, 0.5)
    assert not Yeast(0.05).rejects(3.0, 0.5)
    assert Yeast(0.05).power(Yeast(0.05).drift_for(0.8)) == pytest.approx(0.8)


# confseq, boundaries: normal_mixture_bound, gamma_exponential_*, normal_log_mixture with v_opt = v.
def test_mixtures_are_those_of_confseq():
    def best_rho(v, alpha):  # theirs, an approximation of ours
        return v / (2 * math.log(1 / alpha) + math.log1p(2 * math.log(1 / alpha)))

    rho = best_rho(1_000, 0.05)
    assert mixture.tuned(1_000, alpha=0.05) == pytest.approx(rho, rel=0.1)
    assert float(mixture.boundary(1_000, alpha=0.05, rho=rho)) == pytest.approx(95.98173584, abs=1e-6)
    # Their one-sided boundary is a closed-form upper bound of the exact one.
    one_sided = best_rho(1_000, 0.10)
    exact = float(mixture.boundary(1_000, alpha=0.05, rho=one_sided, alternative="greater"))
    assert exact == pytest.approx(87.47084, rel=2e-3)
    rho = best_rho(100, 0.10)
    assert float(mixture.log_mixture(30, 100, rho=rho, alternative="greater")) == pytest.approx(
        3.5805696, abs=1e-6
    )
    assert bounded.log_gamma_mixture(20, 100, rho) == pytest.approx(1.141519251, abs=1e-7)
    assert bounded.gamma_boundary(100, alpha=0.05, rho=rho) == pytest.approx(30.23812962, abs=1e-6)


# confseq, bernoulli_confidence_interval(s, n, alpha=0.05, t_opt=1000).
@pytest.mark.parametrize(
    ("successes", "n", "lower", "upper"),
    [(0, 100, 0, 0.103952), (5, 1_000, 0.000628, 0.014677), (500, 1_000, 0.4520916, 0.5479084)],
)
def test_the_exact_sequence_is_close_to_that_of_confseq(successes, n, lower, upper):
    found = bounded.bounded_sequence(ProportionTotals(n, successes), alpha=0.05, tuned_to=1_000)
    assert (found.lower, found.upper) == pytest.approx((lower, upper), rel=0.03, abs=1e-9)


def test_a_mixture_worked_by_hand_and_by_quadrature():
    assert float(mixture.log_mixture(3, 1, rho=1)) == pytest.approx(1.9034, abs=5e-5)
    assert float(mixture.boundary(1, alpha=0.05, rho=1)) == pytest.approx(3.6564, abs=5e-5)
    slopes = np.linspace(0, 12, 200_001)
    half_normal = 2 * scipy_stats.norm.pdf(slopes)
    integral = np.trapezoid(half_normal * np.exp(slopes * 2.0 - slopes**2 * 3 / 2), slopes)
    assert float(mixture.log_mixture(2, 3, rho=1, alternative="greater")) == pytest.approx(math.log(integral))
    assert sequences.units_to_tell(1, 1, alpha=0.05) == pytest.approx(9.212, abs=1e-3)
    assert float(sequences.radius(0.01, 100, alpha=0.05, tuned_to=821.19)) == pytest.approx(0.36564, abs=1e-5)


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


def test_the_sample_ratio_of_a_published_example():
    # Fabijan et al. (2019): 821,588 against 815,482 has p = 1.8e-6.
    found = srm.chi_square([ArmCounts((821_588, 815_482), (0.5, 0.5))])
    assert found.p_value == pytest.approx(1.8e-6, rel=0.02)
    three = srm.chi_square([ArmCounts((30, 50, 40), (0.3, 0.4, 0.3))])
    scipy = scipy_stats.chisquare([30, 50, 40], [36, 48, 36])
    assert (three.statistic, three.degrees_of_freedom) == (pytest.approx(scipy.statistic), 2)
    assert three.p_value == pytest.approx(scipy.pvalue)


def test_counts_worked_by_hand():
    assert likeliest_ratio([EventCounts(19, 3, 0.05)]) == pytest.approx(3)
    assert ratio_evalue([], expected_ratio=2).value == pytest.approx(1)
    # Two periods with their own shares: the likelihood ratio of one r, averaged over the prior.
    steps = sequential_counts._DISTANCES * math.log(2)
    weights = sequential_counts._HALF_NORMAL / sequential_counts._HALF_NORMAL.sum()
    r = np.exp(steps)

    def theta(share, ratio):
        return share * ratio / (share * ratio + 1 - share)

    ratio = np.ones_like(r)
    for control, treatment, share in ((7, 4, 0.1), (5, 9, 0.5)):
        ratio *= (theta(share, r) / share) ** treatment * ((1 - theta(share, r)) / (1 - share)) ** control
    found = log_ratio_mixture([7, 5], [4, 9], [0.1, 0.5], ratio=1, expected_ratio=2, alternative="greater")
    assert float(found) == pytest.approx(math.log((weights * ratio).sum()))
