"""Every kind of policy draws from the vector that it logs: served as often as said, and never otherwise."""

from random import Random
from typing import get_args

import msgspec
import numpy as np
import pytest
from scipy.stats import binom

from app.allocation.contextual import materialised, segmented
from app.allocation.model import NANO, VariantTotals, allocate
from app.assignment import snapshot
from app.assignment.bucketing import WHOLE
from app.assignment.decide import decide
from app.assignment.snapshot import PreparedExperiment, published
from app.experiments.metrics import Mean, Metric
from app.experiments.model import Definition, Experiment, Variant
from app.experiments.plan import Segments
from app.experiments.policies import (
    BestArmPolicy,
    ConstrainedThompsonPolicy,
    EpsilonGreedyPolicy,
    Exp3IxPolicy,
    FixedPolicy,
    LinTsPolicy,
    LinUcbPolicy,
    LogisticTsPolicy,
    OptimisticThompsonPolicy,
    Policy,
    SegmentedThompsonPolicy,
    ThompsonPolicy,
    TopTwoPolicy,
    UcbPolicy,
)
from app.experiments.policies.constrained_thompson import Bound
from app.experiments.policies.contextual import ContextualPolicy
from app.experiments.policies.epsilon_greedy import DecreasingEpsilon
from app.experiments.segments import segment_number
from app.ledger.learning.model import LossSums, RewardSums, part_of_segment
from bandits.features import Categorical, Numeric, Schema
from bandits.linear import LinearTotals
from bandits.logistic import LogisticTotals
from stats.totals import MeanTotals
from tests.support.registry import RUNNING, START

FEATURES = (Numeric("length"), Categorical("device", ("phone", "desktop")))
CONTEXTS = ({"length": -1, "device": "phone"}, {"length": 2.5, "device": "tv"})
VARIANTS = tuple(Variant(key, control=key == "a") for key in "abcd")
COST = Metric(key="cost", measure=Mean("cost_usd"), direction="lower")
FLOOR = 0.4
NEXT_TO_NO_FLOOR = 1e-6
"""Track-and-stop needs one."""

FLOORED: dict[str, Policy] = {
    "thompson": ThompsonPolicy(exploration_floor=FLOOR),
    "thompson, normal": ThompsonPolicy(exploration_floor=FLOOR, posterior="normal"),
    "optimistic_thompson": OptimisticThompsonPolicy(exploration_floor=FLOOR),
    "top_two": TopTwoPolicy(exploration_floor=FLOOR, leader_share=0.7),
    "constrained_thompson": ConstrainedThompsonPolicy(
        exploration_floor=FLOOR, constraints=(Bound("cost", at_most=2.0),)
    ),
    "ucb": UcbPolicy(exploration_floor=FLOOR),
    "best_arm, top-two": BestArmPolicy(exploration_floor=FLOOR),
    "best_arm, track-and-stop": BestArmPolicy(exploration_floor=FLOOR, rule="track_and_stop"),
    "exp3_ix": Exp3IxPolicy(exploration_floor=FLOOR, eta=0.05),
    "lin_ts": LinTsPolicy(exploration_floor=FLOOR, features=FEATURES),
    "lin_ts, hybrid": LinTsPolicy(exploration_floor=FLOOR, features=FEATURES, hybrid=True),
    "lin_ucb": LinUcbPolicy(exploration_floor=FLOOR, features=FEATURES),
    "lin_ucb, hybrid": LinUcbPolicy(exploration_floor=FLOOR, features=FEATURES, hybrid=True),
    "logistic_ts": LogisticTsPolicy(exploration_floor=FLOOR, features=FEATURES),
    "segmented_thompson": SegmentedThompsonPolicy(
        exploration_floor=FLOOR, by=(Segments("device", ("phone", "desktop")),)
    ),
}
# Each beside what must not be taken for it: the same policy before its floor is mixed in, or other
# shares.
CASES = {
    name: (policy, msgspec.structs.replace(policy, exploration_floor=NEXT_TO_NO_FLOOR))
    for name, policy in FLOORED.items()
} | {
    "fixed": (
        FixedPolicy({"a": 0.5, "b": 0.3, "c": 0.2, "d": 0.0}),
        FixedPolicy({"a": 0.3, "b": 0.5, "c": 0.2, "d": 0.0}),
    ),
    "epsilon_greedy": (EpsilonGreedyPolicy(epsilon=FLOOR), EpsilonGreedyPolicy(epsilon=NEXT_TO_NO_FLOOR)),
    "epsilon_greedy, decreasing": tuple(
        EpsilonGreedyPolicy(epsilon=DecreasingEpsilon(gap=gap)) for gap in (0.5, 0.99)
    ),
}


def rewarded(rng, context, variant, n=40):
    """Successes of some requests: the later the variant, the more, on phones the other way."""
    phone = context["device"] == "phone"
    return (rng.random(n) < 0.3 + 0.1 * (3 - variant if phone else variant)).astype(float)


def learned(policy):
    """What the ledger has of 80 rewards for each variant, and the totals for all of them."""
    rng, schema = np.random.default_rng(20260110), Schema(FEATURES)
    rewards = [[rewarded(rng, context, variant) for context in CONTEXTS] for variant in range(4)]
    rows = np.repeat([schema.vector_fixed(context) for context in CONTEXTS], 40, axis=0)
    match policy:
        case ContextualPolicy():
            kind = LogisticTotals if isinstance(policy, LogisticTsPolicy) else LinearTotals
            found = {"": [kind.of_rows(rows, np.concatenate(one)) for one in rewards]}
        case Exp3IxPolicy():
            found = {"": [LossSums(80, (60 - 15 * variant) * NANO) for variant in range(4)]}
        case SegmentedThompsonPolicy():
            nanos = [[(successes * NANO).astype(int).tolist() for successes in one] for one in rewards]
            found = {
                part_of_segment(segment_number(policy.by, context)): [RewardSums.of(one[i]) for one in nanos]
                for i, context in enumerate(CONTEXTS)
            }
        case _:
            found = None
    won = [
        sum(int(successes.sum()) for successes in one) + 4 * variant for variant, one in enumerate(rewards)
    ]
    return found, [VariantTotals(80, 80, 0, count * NANO, count * NANO**2) for count in won]


def prepared(policy, stickiness="none"):
    """The experiment as the worker publishes it and a server loads it."""
    definition = Definition(key="k", variants=VARIANTS, policy=policy, metrics=(COST,), stickiness=stickiness)
    experiment = Experiment(
        id=1, definition=definition, state=RUNNING, salt=b"salt", epoch=1, revision=1, created_at=START,
        updated_at=START,
    )  # fmt: skip
    sums, totals = learned(policy)
    moments = {"cost": [MeanTotals(80, mean, 80.0) for mean in (1.5, 2.5, 1.6, 1.7)]}
    weights = allocate(definition, totals, learned=sums, moments=moments)
    by_context = None
    if isinstance(policy, ContextualPolicy):
        by_context = materialised(policy, sums[""])
    elif isinstance(policy, SegmentedThompsonPolicy):
        by_context = segmented(policy, sums, 4)
    body = snapshot.encode(published(experiment, 1, weights, by_context))
    return PreparedExperiment(snapshot.decode(body))


def weights_in(experiment, context):
    reader = experiment.reader
    return list(experiment.published.weights if reader is None else reader.weights(context))


def served_as_often(served, weights, draws):
    """Exactly binomial: a right server leaves these bounds with probability 1e-6, all variants together."""
    shares, tail = np.array(weights) / WHOLE, 1e-6 / 2 / len(weights)
    return ((binom.ppf(tail, draws, shares) <= served) & (served <= binom.isf(tail, draws, shares))).all()


def test_every_kind_of_policy_is_among_the_cases():
    assert {type(policy) for policy, _ in CASES.values()} == set(get_args(Policy))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stickiness", ["none", "unit"])
def test_variants_are_served_as_often_as_their_propensities_say(name, stickiness):
    """1,200 draws in each of two contexts, within exact bounds.

    Planted: the vector before the floor was mixed in, and of what reads contexts that of the other
    one.
    """
    policy, planted = CASES[name]
    subject, other = prepared(policy, stickiness), prepared(planted, stickiness)
    rng, draws = Random(20260101), 1_200
    for context, elsewhere in (CONTEXTS, CONTEXTS[::-1]):
        weights, served = weights_in(subject, context), np.zeros(4)
        assert sum(weights) == WHOLE
        assert min(weights) >= getattr(policy, "exploration_floor", 0.0) / 4 * WHOLE - 4
        for turn in range(draws):
            decision = decide(subject, f"u{turn}", rng.getrandbits(64) - 2**63, context, rng.getrandbits(32))
            assert decision.propensity == weights[decision.variant] / WHOLE
            served[decision.variant] += 1
        assert served_as_often(served, weights, draws)
        assert not served_as_often(served, weights_in(other, context), draws)
        if subject.reader is not None:
            assert not served_as_often(served, weights_in(subject, elsewhere), draws)
