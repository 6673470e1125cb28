"""The slope of judge minus human on length, against truescore and statsmodels, and its coverage."""

import numpy as np
import pytest
import statsmodels.api as sm
import truescore
from scipy.stats import binom

from stats.errors import InsufficientData, InvalidInput
from stats.length_bias import length_bias, length_totals


def biased(rng: np.random.Generator, n: int, slope: float):
    length = rng.gamma(3.0, 0.5, size=n)
    return slope * length + (0.1 + 0.2 * length) * rng.normal(size=n), length


def test_the_slope_equals_that_of_truescore_and_its_error_that_of_statsmodels():
    difference, length = biased(np.random.default_rng(20260101 + 71), 300, 0.1)
    ours = length_bias(length_totals(difference, length))
    theirs = truescore.bias.judge_error_regression(difference, np.zeros(300), {"length": length}).effects[0]
    assert ours.value == pytest.approx(theirs.effect, abs=1e-6)
    fitted = sm.OLS(difference, sm.add_constant(length)).fit(cov_type="HC1")
    assert ours.standard_error == pytest.approx(fitted.bse[1], rel=1e-9)


def test_weights_and_units_equal_weighted_least_squares_with_clusters():
    rng = np.random.default_rng(20260101 + 72)
    difference, length = biased(rng, 400, 0.1)
    inclusion, units = rng.choice([0.1, 0.5], 400), np.repeat(np.arange(100), 4)
    ours = length_bias(length_totals(difference, length, inclusion=inclusion, units=units))
    model = sm.WLS(difference, sm.add_constant(length), weights=1 / inclusion)
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": units, "use_correction": False})
    assert ours.value == pytest.approx(fitted.params[1], rel=1e-9)
    assert ours.standard_error == pytest.approx(fitted.bse[1], rel=0.02)  # our factor m / (m - 2)


def test_the_interval_covers_the_slope():
    rng = np.random.default_rng(20260101 + 73)
    runs, covered, found_none = 400, 0, 0
    for _ in range(runs):
        interval = length_bias(length_totals(*biased(rng, 120, 0.1))).interval(alpha=0.05)
        covered += interval.lower <= 0.1 <= interval.upper
        interval = length_bias(length_totals(*biased(rng, 120, 0.0))).interval(alpha=0.05)
        found_none += interval.lower <= 0 <= interval.upper
    least = binom.ppf(1e-6, runs, 0.95) - 0.02 * runs  # 120 skewed lengths
    assert covered >= least
    assert found_none >= least


REFUSED = {
    "nothing": (np.zeros(0), np.zeros(0), "at least 4"),
    "three responses": (np.array([0.0, 1.0, 0.5]), np.array([1.0, 2.0, 3.0]), "at least 4"),
    "equal lengths": (np.array([0.0, 1.0, 0.5, 0.2]), np.ones(4), "same length"),
    "an exact line": (np.arange(5.0), np.arange(5.0), "exact line"),
}


@pytest.mark.parametrize(("difference", "length", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_slope_is_refused_in_words(difference, length, message):
    with pytest.raises(InsufficientData, match=message):
        length_bias(length_totals(difference, length))


def test_impossible_input_is_refused():
    with pytest.raises(InvalidInput):
        length_totals(np.ones(2), np.ones(3))
    with pytest.raises(InvalidInput):
        length_totals(np.ones(2), np.ones(2), inclusion=np.array([0.5, 2.0]))
