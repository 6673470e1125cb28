"""Strata: a ramp under drift misleads the pooled comparison only."""

import numpy as np
import pytest
from scipy.stats import binom

from stats.errors import InsufficientData
from stats.means import mean_difference
from stats.stratification import Stratum, pooled, stratified_difference
from stats.totals import ProportionTotals as P


def proportions(x, n):
    return P(n, x).moments


def test_the_worked_strata_hold_and_pooling_would_turn_the_effect_around():
    strata = [
        Stratum(proportions(10, 10), proportions(80, 100)),
        Stratum(proportions(5, 50), proportions(1, 20)),
    ]
    result = stratified_difference(strata, weighting="mantel-haenszel")
    assert result.effect.value == pytest.approx(0.1083, abs=1e-4)
    together = pooled(strata)
    assert together.treatment.mean < together.control.mean


@pytest.mark.parametrize("weighting", ["mantel-haenszel", "sample-share"])
def test_a_ramp_under_drift_misleads_the_pooled_comparison_and_not_the_stratified_one(weighting):
    """A canary ramps 1, 5, 25 % while everybody's rate drifts from 10 to 20 to 30 %; there is no effect.

    Stratified intervals miss 0 in at most alpha of runs; pooled ones in nearly all.
    """
    rng = np.random.default_rng(20260101 + 8)
    runs, missed, pooled_missed = 300, 0, 0
    for _ in range(runs):
        strata = []
        for share, rate in ((0.01, 0.1), (0.05, 0.2), (0.25, 0.3)):
            n = (int(20_000 * share), int(20_000 * (1 - share)))
            x = rng.binomial(n, rate)
            strata.append(Stratum(proportions(int(x[0]), n[0]), proportions(int(x[1]), n[1])))
        interval = stratified_difference(strata, weighting=weighting).effect.interval(alpha=0.05)
        missed += not interval.lower <= 0 <= interval.upper
        together = pooled(strata)
        interval = mean_difference(together.treatment, together.control).interval(alpha=0.05)
        pooled_missed += not interval.lower <= 0 <= interval.upper
    limit = binom.ppf(1 - 1e-6, runs, 0.06)
    assert missed <= limit
    assert pooled_missed > 0.9 * runs  # planted bug


def test_strata_without_a_comparison_are_left_out_and_counted():
    strata = [Stratum(proportions(0, 0), proportions(3, 10)), Stratum(proportions(4, 10), proportions(3, 10))]
    for weighting in ("mantel-haenszel", "sample-share"):
        result = stratified_difference(strata, weighting=weighting)
        assert (result.weights, result.n_left_out) == ((0.0, 1.0), 10)
        assert result.effect == mean_difference(strata[1].treatment, strata[1].control)
    with pytest.raises(InsufficientData, match="no stratum"):
        stratified_difference(strata[:1], weighting="sample-share")
