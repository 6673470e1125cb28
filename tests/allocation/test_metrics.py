"""Thompson sampling on more than the reward, without engines."""

import numpy as np
import pytest

from app.allocation.metrics import metric_arms
from app.allocation.model import NANO, VariantTotals, allocate
from app.assignment.bucketing import WHOLE
from app.core.errors import InvalidInput
from app.experiments.checks import check
from app.experiments.metrics import Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.model import Definition, Variant
from app.experiments.policies import ConstrainedThompsonPolicy, ThompsonPolicy
from app.experiments.policies.constrained_thompson import Bound
from bandits.arms import BetaArms
from bandits.best import probability_best
from stats.totals import MeanTotals

METRICS = (
    Metric(key="cost", measure=Mean("cost_usd"), direction="lower"),
    Metric(key="error", measure=Proportion("error", silence=0), direction="lower"),
    Metric(key="tokens", measure=Ratio("tokens", "assignments"), direction="lower"),
    Metric(key="p95", measure=QuantileOf("latency_ms"), direction="lower"),
)


def definition(**policy):
    return Definition(
        key="k",
        variants=(Variant("a", control=True), Variant("b"), Variant("c")),
        policy=ConstrainedThompsonPolicy(exploration_floor=0.0, **policy),
        metrics=METRICS,
    )


def rewarded(*counts, of=100):
    return [VariantTotals(of, of, 0, count * NANO, count * NANO**2) for count in counts]


def units(*means, n=400, variance=1.0):
    return [MeanTotals(n, mean, variance * n) for mean in means]


def test_a_variant_that_breaks_a_constraint_is_not_served_however_well_it_does():
    policy = definition(constraints=(Bound("cost", at_most=2.0),))
    shares = allocate(policy, rewarded(20, 30, 90), moments={"cost": units(1.0, 1.0, 9.0)})
    assert shares[2] < 1e-6 * WHOLE
    assert shares[1] > 0.9 * WHOLE
    assert sum(shares) == WHOLE


def test_where_no_variant_meets_the_constraints_the_control_serves():
    policy = definition(constraints=(Bound("cost", at_most=0.5),))
    shares = allocate(policy, rewarded(20, 30, 90), moments={"cost": units(5.0, 6.0, 9.0)})
    assert shares[0] > (1 - 1e-6) * WHOLE


def test_constraints_that_every_variant_meets_change_nothing():
    totals = rewarded(40, 45, 50)
    policy = definition(constraints=(Bound("cost", at_least=0.0, at_most=100.0),))
    free = Definition(key="k", variants=policy.variants, policy=ThompsonPolicy(exploration_floor=0.0))
    found = allocate(policy, totals, moments={"cost": units(1.0, 2.0, 3.0)})
    assert found == pytest.approx(allocate(free, totals), abs=1e-6 * WHOLE)


def test_a_metric_without_values_meets_its_constraint_with_one_half():
    """P(b is best and feasible) by hand for two arms: here each factor is 1/2, none is feasible with 1/8."""
    policy = definition(constraints=(Bound("cost", at_most=2.0),))
    shares = np.array(allocate(policy, rewarded(50, 50, 50))) / WHOLE
    assert shares == pytest.approx([7 / 24 + 1 / 8, 7 / 24, 7 / 24], abs=1e-6)
    between = definition(constraints=(Bound("cost", at_least=1.0, at_most=2.0),))
    assert np.array(allocate(between, rewarded(50, 50, 50))) / WHOLE == pytest.approx(shares, abs=1e-6)


def test_weights_let_a_cost_outweigh_the_reward():
    """Rewards 0.5 and 0.6; costs 1 and 4 at -0.1 each: 0.4 against 0.2."""
    policy = definition(weights={"cost": -0.1})
    moments = {"cost": units(1.0, 4.0, 9.0, n=10_000)}
    assert allocate(policy, rewarded(500, 600, 600, of=1_000), moments=moments)[0] > 0.99 * WHOLE
    assert allocate(policy, rewarded(500, 600, 600, of=1_000))[0] < 0.01 * WHOLE, (
        "no cost is known: none counts"
    )


def test_a_proportion_has_beta_posteriors():
    arms = metric_arms(METRICS[1], [MeanTotals(10, 0.2, 1.6), MeanTotals(0, 0.0, 0.0)])
    assert isinstance(arms, BetaArms)
    assert (arms.alpha.tolist(), arms.beta.tolist()) == ([3, 1], [9, 1])
    assert probability_best(arms)[1] > 0.5


def test_a_metric_that_never_varies_is_known():
    arms = metric_arms(METRICS[0], units(3.0, 3.0, 5.0, variance=0.0))
    assert arms is not None
    assert arms.mean == pytest.approx([3.0, 3.0, 5.0], abs=0.01)
    assert np.isfinite(arms.variance).all()


@pytest.mark.parametrize(
    ("policy", "field", "reason"),
    [
        ({}, "policy.constraints", "needs a constraint, or a metric in weights"),
        (
            {"constraints": (Bound("speed", at_most=1.0),)},
            "policy.constraints[0].metric",
            "no metric is called 'speed'",
        ),
        ({"weights": {"speed": 1.0}}, "policy.weights.speed", "no metric is called 'speed'"),
        (
            {"weights": {"p95": 1.0}},
            "policy.weights.p95",
            "'p95' is a quantile: a policy reads means, proportions and ratios",
        ),
    ],
)
def test_a_policy_names_metrics_of_its_definition(policy, field, reason):
    with pytest.raises(InvalidInput) as caught:
        check(definition(**policy))
    assert [(error.field, error.reason) for error in caught.value.errors] == [(field, reason)]


@pytest.mark.parametrize("sides", [{}, {"at_least": 2.0, "at_most": 1.0}])
def test_a_bound_leaves_room_and_bounds(sides):
    with pytest.raises(ValueError, match=r"at_least"):
        Bound("cost", **sides)
