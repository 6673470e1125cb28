"""From totals to weights, without engines."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.allocation.model import NANO, VariantTotals, allocate
from app.assignment.bucketing import WHOLE
from app.experiments.model import BetaPrior, Definition, FixedPolicy, ThompsonPolicy, Variant

VARIANTS = (Variant("a", control=True), Variant("b"), Variant("c"))


def definition(policy):
    return Definition(key="k", variants=VARIANTS, policy=policy)


observed = st.integers(0, 10**7).flatmap(
    lambda rewards: st.integers(0, rewards * NANO).map(
        lambda total: VariantTotals(rewards, rewards, 0, total, total**2 // max(rewards, 1))
    )
)


def test_fixed_weights_ignore_totals_and_follow_the_order_of_the_variants():
    policy = FixedPolicy({"c": 0.5, "a": 0.25, "b": 0.25})
    totals = [VariantTotals(10, 10, 0, 10 * NANO, 10 * NANO**2), VariantTotals(), VariantTotals()]
    assert allocate(definition(policy), totals) == (WHOLE // 4, WHOLE // 4, WHOLE // 2)


def test_nothing_observed_is_an_even_split():
    weights = allocate(definition(ThompsonPolicy()), [VariantTotals()] * 3)
    assert weights == pytest.approx([WHOLE / 3] * 3, abs=1)


def test_a_strong_prior_holds_the_split_where_a_weak_one_lets_it_go():
    totals = [VariantTotals(10, 10, 0, wins * NANO, wins * NANO**2) for wins in (1, 5, 9)]
    weak = allocate(definition(ThompsonPolicy()), totals)
    strong = allocate(definition(ThompsonPolicy(prior=BetaPrior(5_000, 5_000))), totals)
    assert weak[2] > 0.9 * WHOLE
    assert max(strong) < 0.4 * WHOLE


@settings(deadline=None)
@given(st.tuples(observed, observed, observed), st.floats(0, 1))
def test_weights_are_whole_parts_that_keep_the_floor(totals, floor):
    policy = ThompsonPolicy(exploration_floor=floor)
    weights = allocate(definition(policy), totals)
    assert sum(weights) == WHOLE
    assert min(weights) >= floor / 3 * WHOLE - 1
    assert weights == allocate(definition(policy), totals), "equal totals, equal bits"
