"""Group sequential plans against rpact, and worked by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stats.errors import InvalidInput
from stats.group_sequential import (
    GroupSequentialPlan,
    HwangShihDeCani,
    Paths,
    PowerFamily,
    spending_of,
    spent,
)

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
    # gsDesign 3.6, gsDesign(k = 3, sfu = sfHSD, sfupar = -4), its default.
    (HwangShihDeCani(-4), (1 / 3, 2 / 3, 1), (3.010739, 2.546531, 1.999226)),
]


@pytest.mark.parametrize(("spending", "fractions", "bounds"), RPACT)
def test_boundaries_are_those_of_rpact_on_either_side_alone(spending, fractions, bounds):
    plan = GroupSequentialPlan(0.025, spending, "greater")
    assert plan.boundaries(fractions) == pytest.approx(bounds, abs=2e-6)
    two_sided = GroupSequentialPlan(0.05, spending)
    assert two_sided.paths(fractions).power(0.0) == pytest.approx(0.05, abs=1e-8)


def test_inflation_power_and_expected_information_are_the_published_ones():
    fifths = [k / 5 for k in range(1, 6)]
    obf, pocock = GroupSequentialPlan(0.05), GroupSequentialPlan(0.05, "pocock")
    # rpact 3.3.4: getDesignCharacteristics()$inflationFactor.
    one_sided = [GroupSequentialPlan(0.025, plan.spending, "greater") for plan in (obf, pocock)]
    drift = scipy_stats.norm.ppf(0.975) + scipy_stats.norm.ppf(0.8)
    inflation = [(plan.paths(fifths).drift_for(0.8) / drift) ** 2 for plan in one_sided]
    assert inflation == pytest.approx([1.02472, 1.212613], abs=2e-5)
    assert obf.paths(fifths).power(drift) == pytest.approx(0.790, abs=6e-4)
    assert obf.paths(fifths).expected_fraction(drift) == pytest.approx(0.81, abs=6e-3)
    assert pocock.paths(fifths).power(drift) == pytest.approx(0.716, abs=8e-4)


def test_the_estimate_after_stopping_is_that_of_rpact():
    # rpact 3.3.4, getFinalConfidenceInterval: 2 of 5 stages of 100, mean 0.3, overall sd sqrt(198 / 199).
    z = 0.3 * math.sqrt(200 / (198 / 199))
    plan = GroupSequentialPlan(0.025, "obrien-fleming", "greater")
    assert plan.adjusted_p_value(z, [0.2, 0.4]) == pytest.approx(1.097452e-05, rel=1e-4)
    information = 500 / (198 / 199)
    assert plan.median_unbiased(z, [0.2, 0.4], information=information) == pytest.approx(0.2999162, abs=2e-5)
    interval = GroupSequentialPlan(0.05).adjusted_interval(z, [0.2, 0.4], information=information)
    assert (interval.lower, interval.upper) == pytest.approx((0.1615985, 0.4381867), abs=5e-5)


def test_a_single_look_is_the_fixed_test():
    plan = GroupSequentialPlan(0.05)
    assert plan.boundaries([1.0]) == pytest.approx([1.959964], abs=1e-6)
    assert plan.adjusted_p_value(1.959964, [1.0]) == pytest.approx(0.05, abs=1e-7)
    fixed = scipy_stats.norm.ppf(0.975) + scipy_stats.norm.ppf(0.9)
    assert plan.paths([1.0]).drift_for(0.9) == pytest.approx(fixed, abs=1e-6)


def test_a_plan_in_the_other_direction_is_the_mirror_image():
    fractions = [0.3, 0.7, 1.0]
    up, down = (GroupSequentialPlan(0.025, "pocock", side) for side in ("greater", "less"))
    assert up.boundaries(fractions) == pytest.approx(down.boundaries(fractions))
    upward, downward = up.paths(fractions), down.paths(fractions)
    assert upward.power(2.5) == pytest.approx(downward.power(-2.5))
    assert downward.drift_for(0.8) == pytest.approx(-upward.drift_for(0.8))
    assert up.adjusted_p_value(2.0, fractions) == pytest.approx(down.adjusted_p_value(-2.0, fractions))
    assert up.adjusted_interval(2.0, fractions, information=100).upper == math.inf
    with pytest.raises(InvalidInput, match=r"power must be above 0\.025"):
        upward.drift_for(0.02)


def test_alpha_is_spent_and_crossed_as_by_hand():
    assert spent(0.5, alpha=0.025, spending="pocock") == pytest.approx(0.025 * math.log(1 + (math.e - 1) / 2))
    assert spent(1.0, alpha=0.025, spending="obrien-fleming") == pytest.approx(0.025)
    assert Paths([1.0], [1.959964]).leaving(0.0) == pytest.approx((0.05,), rel=1e-6)
    with pytest.raises(InvalidInput, match="one bound per look"):
        Paths([0.5, 1.0], [2.0])


@pytest.mark.parametrize("side", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("drift", [-3.0, 0.0, 2.8, 8.0])
def test_crossings_at_any_drift_are_those_of_a_multivariate_normal(side, drift):
    fractions = np.array([0.25, 0.5, 0.8, 1.0])
    plan = GroupSequentialPlan(0.05, alternative=side)
    paths, bounds = plan.paths(fractions), np.array(plan.boundaries(fractions))
    low = -bounds if side != "greater" else np.full(4, -np.inf)
    high = bounds if side != "less" else np.full(4, np.inf)
    inside = [1.0]
    for looks in range(1, 5):
        part = fractions[:looks]
        correlation = np.sqrt(np.minimum.outer(part, part) / np.maximum.outer(part, part))
        z = scipy_stats.multivariate_normal(drift * np.sqrt(part), correlation, seed=1, abseps=1e-7)
        inside.append(float(z.cdf(high[:looks], lower_limit=low[:looks])))
    assert paths.leaving(drift) == pytest.approx(-np.diff(inside), abs=2e-6)
    sign = -1 if side == "less" else 1
    assert paths.drift_for(paths.power(sign * 2.5)) == pytest.approx(sign * 2.5, abs=1e-9)


SPENDINGS = [
    "obrien-fleming",
    "pocock",
    PowerFamily(0.5),
    PowerFamily(3),
    HwangShihDeCani(-8),
    HwangShihDeCani(2),
]


@pytest.mark.parametrize("spending", SPENDINGS, ids=str)
def test_every_spending_function_rises_from_nothing_to_alpha_and_keeps_the_level(spending):
    amounts = [spent(k / 50, alpha=0.025, spending=spending) for k in range(1, 51)]
    assert all(later > earlier for earlier, later in itertools.pairwise([0.0, *amounts]))
    assert amounts[-1] == pytest.approx(0.025, rel=1e-12)
    paths = GroupSequentialPlan(0.05, spending).paths([0.3, 0.55, 0.8, 1.0])
    assert paths.power(0.0) == pytest.approx(0.05, abs=1e-8)


def test_parameters_of_spending_functions_have_known_special_cases():
    for time in (0.1, 0.5, 0.9):
        assert spent(time, alpha=0.05, spending=PowerFamily(2)) == pytest.approx(0.05 * time**2)
        even = spent(time, alpha=0.05, spending=HwangShihDeCani(0))
        assert even == pytest.approx(spent(time, alpha=0.05, spending=PowerFamily(1)))
        assert even == pytest.approx(spent(time, alpha=0.05, spending=HwangShihDeCani(1e-9)), rel=1e-6)


@pytest.mark.parametrize("spending", SPENDINGS, ids=str)
def test_the_text_of_a_spending_function_reads_back(spending):
    assert spending_of(str(spending)) == spending


@pytest.mark.parametrize(
    "text", ["", "obrien", "pocock:1", "power:0", "power:nan", "power:x", "hwang-shih-decani:99"]
)
def test_other_texts_are_refused_with_the_four_that_exist(text):
    with pytest.raises(InvalidInput, match=r"obrien-fleming, pocock, power:RHO .* got "):
        spending_of(text)
