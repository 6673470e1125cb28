"""Everything that takes an alpha refuses what is none, and answers at extreme ones."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from stats import (
    aa,
    adaptive,
    bounded,
    eprocess,
    group_sequential,
    means,
    mixture,
    multiplicity,
    one_sided,
    planning,
    proportions,
    quantiles,
    relative,
    sequences,
    sprt,
    yeast,
)
from stats.errors import InsufficientData, InvalidInput
from stats.interval import Interval, beta_interval
from stats.totals import MeanTotals
from tests.stats.methods import (
    EFFECTS,
    ONE,
    OTHER,
    SKETCH,
    SOME,
    TWO_SAMPLE,
    arms,
    contrast,
)

UNIT_PERIODS = [adaptive.ArmPeriod.constant(4_000, 0.5, MeanTotals(2_000, 0.3, 420.0))]
ONE_SIDED = one_sided.OneSided.of((OTHER, ONE), relative=True)
RNG = np.random.default_rng(1)
TAKES_ALPHA: dict[str, Callable[[float], object]] = {
    **{
        name: lambda a, m=method: m.interval(*arms(m, 3_000, 3_000), a) for name, method in TWO_SAMPLE.items()
    },
    "Estimate.interval": lambda a: EFFECTS[0].interval(alpha=a),
    "Estimate.lower_bound": lambda a: EFFECTS[0].lower_bound(alpha=a),
    "Estimate.upper_bound": lambda a: EFFECTS[0].upper_bound(alpha=a),
    "AdaptiveEstimate.interval": lambda a: adaptive.AdaptiveEstimate(0.0, 1.0).interval(alpha=a),
    "beta_interval": lambda a: beta_interval(2, 3, level=1 - a),
    "exact_interval": lambda a: proportions.exact_interval(SOME, alpha=a),
    "fieller_interval": lambda a: relative.fieller_interval(means.mean(ONE), means.mean(OTHER), alpha=a),
    "quantile_interval": lambda a: quantiles.quantile_interval(SKETCH, 0.5, alpha=a),
    "quantile_sequence": lambda a: quantiles.quantile_sequence(SKETCH, 0.5, alpha=a, tuned_to=100),
    "mixture.boundary": lambda a: mixture.boundary(1.0, alpha=a, rho=1.0),
    "mixture.tuned": lambda a: mixture.tuned(1.0, alpha=a),
    "sequences.radius": lambda a: sequences.radius(1.0, 1.0, alpha=a, tuned_to=1.0),
    "normal_sequence": lambda a: sequences.normal_sequence(0.0, 1.0, alpha=a, tuned_to=1.0),
    "mean_sequence": lambda a: sequences.mean_sequence(ONE, alpha=a, tuned_to=1_000),
    "relative_difference_sequence": lambda a: sequences.relative_difference_sequence(
        contrast(ONE, OTHER), alpha=a, tuned_to=1_000
    ),
    "units_to_tell": lambda a: sequences.units_to_tell(0.1, 1.0, alpha=a),
    "bounded_sequence": lambda a: bounded.bounded_sequence(SOME, alpha=a, tuned_to=100),
    "bounded_sequence of nothing": lambda a: bounded.bounded_sequence(MeanTotals(), alpha=a, tuned_to=100),
    "BernsteinSums": lambda a: bounded.BernsteinSums(10, 5.0, 2.5).interval(alpha=a, tuned_to=100),
    "BernsteinSums one-sided": lambda a: bounded.BernsteinSums().interval(
        alpha=a, tuned_to=100, alternative="greater"
    ),
    "gamma_boundary": lambda a: bounded.gamma_boundary(1.0, alpha=a, rho=1.0),
    "importance_sequence": lambda a: adaptive.importance_sequence(
        UNIT_PERIODS, alpha=a, tuned_to=100, expected_variance=1.0
    ),
    "OneSided.bound": lambda a: ONE_SIDED.bound("greater", alpha=a, rho=1.0),
    "EValue.rejects": lambda a: eprocess.EValue(1.0).rejects(a),
    "Yeast": yeast.Yeast,
    "GroupSequentialPlan": group_sequential.GroupSequentialPlan,
    "spent": lambda a: group_sequential.spent(0.5, alpha=a, spending="obrien-fleming"),
    "WaldLimits": lambda a: sprt.WaldLimits(a, 1e-9),
    "family_level": lambda a: multiplicity.family_level([], a, "bonferroni"),
    "noise_floor": lambda a: aa.noise_floor(ONE, alpha=a),
    "Plan": lambda a: planning.Plan(planning.MeanOutcome(1.0), a, 1 - 1e-15),
}


@pytest.mark.parametrize("ask", TAKES_ALPHA.values(), ids=TAKES_ALPHA)
def test_what_is_no_alpha_is_refused(ask):
    for alpha in (0.0, 1.0, -0.05, 1.5, math.nan, math.inf):
        with pytest.raises(InvalidInput):
            ask(alpha)


@pytest.mark.parametrize("ask", TAKES_ALPHA.values(), ids=TAKES_ALPHA)
def test_an_extreme_alpha_has_an_answer_or_needs_more_data(ask):
    for alpha in (1e-15, 0.05, 0.999):
        try:
            found = ask(alpha)
        except InsufficientData:
            continue
        for bounds in found if isinstance(found, tuple) else (found,):
            if isinstance(bounds, Interval):
                assert bounds.lower <= bounds.upper
