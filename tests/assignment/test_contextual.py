"""Decisions in a context: served as often as logged, small enough, and nothing of chance in a propensity."""

from collections import defaultdict
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from app.allocation.contextual import materialised
from app.assignment import bucketing, snapshot
from app.assignment.bucketing import WHOLE
from app.assignment.service import decide
from app.assignment.snapshot import PreparedExperiment
from app.core import limits
from app.experiments.model import LinTsPolicy, LinUcbPolicy, LogisticTsPolicy
from bandits.features import UNIT, Categorical, Numeric, Schema
from bandits.linear import LinearTotals
from bandits.logistic import LogisticTotals
from tests.support.registry import experiment

FEATURES = (Numeric("length"), Categorical("device", ("phone", "desktop")))
CONTEXTS = [{"length": length, "device": device} for length in (-1, 0, 2.5) for device in ("phone", "tv")]


def learned(kind=LinearTotals, n_variants=4, features=FEATURES):
    rng = np.random.default_rng(20260101)
    schema = Schema(features)
    rows = [CONTEXTS[number] for number in rng.integers(len(CONTEXTS), size=60)]
    contexts = np.array([schema.vector_fixed(context) for context in rows])
    return [
        kind.of_rows(contexts, np.round(rng.random(60) * (0.6 + 0.1 * variant)))
        for variant in range(n_variants)
    ]


def prepared(policy, totals, **fields):
    published = experiment(shares=[0.25] * 4, policy=policy, learned=totals, **fields)
    return PreparedExperiment(snapshot.decode(snapshot.encode(published)))


POLICIES = [
    (LinTsPolicy(features=FEATURES), learned()),
    (LinTsPolicy(features=FEATURES, hybrid=True, exploration_floor=0.0), learned()),
    (LinUcbPolicy(features=FEATURES, exploration_floor=0.3), learned()),
    (LogisticTsPolicy(features=FEATURES), learned(LogisticTotals)),
]


@pytest.mark.parametrize(("policy", "totals"), POLICIES, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("stickiness", ["none", "unit"])
def test_variants_are_served_as_often_as_their_propensities_say(policy, totals, stickiness):
    """Within a bound that a right server leaves with probability 1e-6, for all variants together.

    Propensities of the next context must fail, or the gate could not see a bug.
    """
    subject, rng = prepared(policy, totals, stickiness=stickiness), Random(20260101)
    served, said, wrong, variance = (defaultdict(float) for _ in range(4))
    for turn in range(6_000):
        context, other = CONTEXTS[turn % 6], CONTEXTS[(turn + 1) % 6]
        decision = decide(subject, f"u{turn}", rng.getrandbits(64) - 2**63, context, rng.getrandbits(32))
        weights, misread = subject.reader.weights(context), subject.reader.weights(other)
        assert sum(weights) == WHOLE
        assert decision.propensity == weights[decision.variant] / WHOLE
        for variant in range(4):
            key = turn % 6, variant
            served[key] += decision.variant == variant
            said[key] += weights[variant] / WHOLE
            wrong[key] += misread[variant] / WHOLE
            variance[key] += weights[variant] / WHOLE * (1 - weights[variant] / WHOLE)
    limit = norm.isf(1e-6 / 2 / len(served))
    deviation = {key: abs(served[key] - said[key]) / variance[key] ** 0.5 for key in served if variance[key]}
    assert max(deviation.values()) <= limit
    assert max(abs(served[key] - wrong[key]) / variance[key] ** 0.5 for key in deviation) > limit


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50).filter(any))
def test_fast_parts_are_whole_and_those_of_largest_remainders_but_for_a_few(shares):
    shares = [share / sum(shares) for share in shares]
    near = bucketing.parts_near(shares)
    assert sum(near) == WHOLE
    assert min(near) >= 0
    for fast, slow in zip(near, bucketing.parts(shares), strict=True):
        assert abs(fast - slow) <= len(shares)
        assert (fast > 0) == (slow > 0)


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_largest_posterior_keeps_its_bound(hybrid):
    features = tuple(Numeric(f"f{number}") for number in range(64))
    rows = np.random.default_rng(20260102).integers(-UNIT, UNIT, size=(100, 65))
    rows[:, 0] = UNIT
    totals = [LinearTotals.of_rows(rows, np.full(100, 0.5))] * limits.VARIANTS_MAX
    made = materialised(LinTsPolicy(features=features, hybrid=hybrid), totals)
    assert len(made.means) + len(made.factors) <= limits.POSTERIOR_BYTES_MAX
    assert made == materialised(LinTsPolicy(features=features, hybrid=hybrid), totals)


def test_a_server_that_knows_nothing_of_contexts_serves_the_weights_beside_them():
    """The new field is ignored by older readers and absent from what others publish."""
    plain = snapshot.encode(experiment())
    assert b"contextual" not in plain
    assert snapshot.decode(plain).contextual is None
