"""From totals to weights, without engines."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from app.allocation.model import NANO, VariantTotals, allocate, posteriors, shadow_weights, with_held
from app.assignment import bucketing
from app.assignment.bucketing import WHOLE
from app.experiments.model import Definition, Experiment, Running, Variant
from app.experiments.policies import (
    BestArmPolicy,
    EpsilonGreedyPolicy,
    FixedPolicy,
    OptimisticThompsonPolicy,
    ThompsonPolicy,
    TopTwoPolicy,
    UcbPolicy,
)
from app.experiments.policies.epsilon_greedy import DecreasingEpsilon
from app.experiments.policies.posterior import BetaPrior
from app.experiments.policies.rule import WarmStart
from app.experiments.reward import Reward
from bandits.arms import BetaArms
from bandits.best import probability_best
from bandits.identification import Winner

VARIANTS = (Variant("a", control=True), Variant("b"), Variant("c"))


def definition(policy, **fields):
    return Definition(key="k", variants=VARIANTS, policy=policy, **fields)


def successes(*counts, of=10, pending=0):
    return [VariantTotals(of + pending, of, 0, count * NANO, count * NANO**2) for count in counts]


POLICIES = [
    *(ThompsonPolicy(posterior=posterior) for posterior in ("beta", "normal", "gamma")),
    OptimisticThompsonPolicy(),
    TopTwoPolicy(),
    *(UcbPolicy(index=index, rounds_ahead=1) for index in ("ucb1", "ucb1_tuned", "kl_ucb", "kl_ucb_plus")),
    BestArmPolicy(),
    BestArmPolicy(rule="track_and_stop"),
    EpsilonGreedyPolicy(),
    EpsilonGreedyPolicy(epsilon=DecreasingEpsilon(gap=0.5, c=0.1)),
]


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


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_every_policy_splits_evenly_at_first_and_serves_the_best_more_after(policy):
    assert allocate(definition(policy), [VariantTotals()] * 3) == pytest.approx([WHOLE / 3] * 3, abs=1)
    weights = allocate(definition(policy), successes(20, 50, 90, of=100))
    assert sum(weights) == WHOLE
    assert weights[2] > 0.4 * WHOLE  # of top-two at most `leader_share` and a bit
    assert weights[2] == max(weights)
    assert weights == allocate(definition(policy), successes(20, 50, 90, of=100)), "equal totals, equal bits"


def test_what_is_pending_narrows_a_bound_but_not_a_posterior():
    """Variant a is ahead, but hundreds of its pulls are pending: the bound of b is above its own by then."""
    totals = [*successes(6, of=10, pending=500), *successes(5, 1, of=10)]
    assert allocate(definition(UcbPolicy(index="ucb1", rounds_ahead=1)), totals)[1] > 0.9 * WHOLE
    assert allocate(definition(ThompsonPolicy()), totals) == allocate(
        definition(ThompsonPolicy()), successes(6, 5, 1)
    )


def test_a_gamma_posterior_counts_in_the_unit_of_the_range():
    """Rewards of 1/2 in [0, 10] are counts of 5: ten of them tell more than ten tosses of a coin."""
    totals = [VariantTotals(10, 10, 0, 5 * NANO, 0), VariantTotals(10, 10, 0, 3 * NANO, 0), VariantTotals()]
    gamma = definition(ThompsonPolicy(posterior="gamma"), reward=Reward(range=(0.0, 10.0)))
    beta = definition(ThompsonPolicy(), reward=Reward(range=(0.0, 10.0)))
    assert allocate(gamma, totals)[1] < allocate(beta, totals)[1] / 2


def test_shares_of_thompson_are_the_probabilities_to_be_best():
    """Beta(3, 9), Beta(6, 6) and Beta(8, 4) after 2, 5 and 7 of 10."""
    best = probability_best(BetaArms.from_totals([one.reward_totals for one in successes(2, 5, 7)]))
    weights = allocate(definition(ThompsonPolicy(exploration_floor=0.0)), successes(2, 5, 7))
    assert weights == pytest.approx(best * WHOLE, abs=1)


AT = datetime(2026, 1, 1, tzinfo=UTC)


def experiment(**fields):
    return Experiment(
        id=1,
        definition=definition(FixedPolicy({"a": 1.0, "b": 0.0, "c": 0.0}), **fields),
        state=Running(AT),
        salt=b"",
        epoch=1,
        revision=1,
        created_at=AT,
        updated_at=AT,
    )


@pytest.mark.parametrize("policy", [one for one in POLICIES if not isinstance(one, BestArmPolicy)], ids=str)
def test_a_shadow_policy_would_serve_what_it_serves_in_force(policy):
    totals = successes(20, 50, 90, of=100)
    assert shadow_weights(experiment(shadow_policy=policy), totals) == allocate(definition(policy), totals)


def test_compares_nothing_without_a_shadow_policy():
    assert shadow_weights(experiment(), successes(2, 5, 7)) is None


def test_a_best_arm_shadow_policy_serves_its_winner_once_it_would_have_decided():
    policy, totals = BestArmPolicy(), successes(20, 50, 90, of=100)
    shadowed = experiment(shadow_policy=policy)
    assert shadow_weights(shadowed, totals) == allocate(definition(policy), totals)
    assert shadow_weights(shadowed, totals, Winner(2, 300.0, 9.0, 3.7)) == (0, 0, WHOLE)


def test_a_warm_start_is_a_prior_of_discounted_earlier_rewards_and_no_more_than_its_greatest_number():
    """40, 100 and no earlier rewards at discount 0.5 count as 20, then 50 cut to 30, and none."""
    earlier = [*successes(10, of=40), *successes(60, of=100), VariantTotals()]
    warm = definition(ThompsonPolicy(warm_start=WarmStart(experiment="before", n_max=30, discount=0.5)))
    arms = posteriors(warm, successes(4, 5, 6), earlier)
    assert arms.alpha == pytest.approx([1 + 5 + 4, 1 + 18 + 5, 1 + 6])
    assert arms.beta == pytest.approx([1 + 15 + 6, 1 + 12 + 5, 1 + 4])
    served = allocate(warm, successes(4, 5, 6), earlier=earlier)
    matched = 0.95 * probability_best(arms) + 0.05 / 3
    assert served == pytest.approx(matched * WHOLE, abs=1)
    assert served == allocate(warm, successes(4, 5, 6), earlier=earlier), "equal totals, equal bits"


def held(shares, weights, policy=None):
    described = definition(policy or ThompsonPolicy())
    return with_held(replace(experiment(), definition=described, held=shares), weights)


def test_what_a_rollout_holds_stands_and_the_others_share_the_rest_as_before():
    """a and c have 1 to 3; b is held at a tenth."""
    weights = (WHOLE // 8, WHOLE // 2, WHOLE * 3 // 8)
    found = held({"b": 0.1}, weights)
    assert sum(found) == WHOLE
    assert found == pytest.approx([0.225 * WHOLE, 0.1 * WHOLE, 0.675 * WHOLE], abs=1)
    assert held({}, weights) == weights


def test_a_share_without_a_policy_weight_goes_to_the_control():
    assert held({"b": 0.25}, (0, WHOLE, 0)) == (WHOLE * 3 // 4, WHOLE // 4, 0)
    assert held({"b": 0.0}, (0, WHOLE, 0)) == (WHOLE, 0, 0)
    assert held({"b": 1.0}, (WHOLE // 2, WHOLE // 4, WHOLE // 4)) == (0, WHOLE, 0)


@given(st.floats(0, 1), st.tuples(*[st.integers(0, 100)] * 3).filter(any))
def test_held_weights_are_whole_parts(share, parts):
    weights = bucketing.parts([part / sum(parts) for part in parts])
    found = held({"c": share}, weights)
    assert sum(found) == WHOLE
    assert found[2] == pytest.approx(share * WHOLE, abs=1)
