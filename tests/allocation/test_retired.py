"""Retired variants get no share, and the others what they would get without them."""

from datetime import UTC, datetime

import numpy as np
import pytest
from msgspec.structs import replace

from app.allocation.contextual import decided_by
from app.allocation.model import (
    NANO,
    AllocationPoint,
    VariantTotals,
    allocate,
    shadow_weights,
    standing_winner,
)
from app.assignment.bucketing import WHOLE
from app.assignment.snapshot import reader_of
from app.experiments.model import Definition, Experiment, Running, Variant
from app.experiments.policies import BestArmPolicy, FixedPolicy, LinTsPolicy, LinUcbPolicy, TopTwoPolicy
from bandits.features import UNIT, Numeric
from bandits.identification import Winner
from bandits.linear import LinearTotals
from tests.allocation.test_model import POLICIES

A, B, C = Variant("a", control=True), Variant("b", retired=True), Variant("c")
FEATURES = (Numeric("x"),)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def running_with(policy, shadow_policy=None):
    definition = Definition(key="k", variants=(A, B, C), policy=policy, shadow_policy=shadow_policy)
    return Experiment(
        id=1,
        definition=definition,
        state=Running(AT),
        salt=b"",
        epoch=3,
        revision=7,
        created_at=AT,
        updated_at=AT,
    )


def successes(*counts, of=50):
    return [VariantTotals(of, of, 0, count * NANO, count * NANO**2) for count in counts]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_the_active_variants_share_as_if_there_were_no_other(policy):
    with_retired = Definition(key="k", variants=(A, B, C), policy=policy)
    without = Definition(key="k", variants=(A, C), policy=policy)
    a, b, c = allocate(with_retired, successes(20, 49, 25))
    assert b == 0
    assert (a, c) == allocate(without, successes(20, 25))


@pytest.mark.parametrize("policy", [*POLICIES, BestArmPolicy()], ids=repr)
def test_a_variant_that_is_left_alone_gets_everything(policy):
    definition = Definition(key="k", variants=(A, B, replace(C, retired=True)), policy=policy)
    assert allocate(definition, successes(0, 50, 50)) == (WHOLE, 0, 0)


def test_fixed_weights_name_the_active_variants():
    definition = Definition(key="k", variants=(A, B, C), policy=FixedPolicy({"a": 0.25, "c": 0.75}))
    assert allocate(definition, successes(1, 1, 1)) == (WHOLE // 4, 0, WHOLE // 4 * 3)


def test_a_winner_stays_until_the_rule_changes_and_a_shadow_policy_serves_its_own():
    running, winner = running_with(BestArmPolicy()), Winner(2, 3_000.0, 9.0, 3.7)
    latest = AllocationPoint(1, running.epoch, AT, (0, 0, WHOLE), winner=winner)
    assert standing_winner(running, latest) == winner
    assert standing_winner(running, None) is None
    assert standing_winner(replace(running, epoch=running.epoch + 1), latest) is None, "another rule"
    totals = successes(100, 1000, 900, of=1000)
    assert shadow_weights(running_with(TopTwoPolicy(), BestArmPolicy()), totals, winner) == (0, 0, WHOLE)


@pytest.mark.parametrize(
    "policy", [LinTsPolicy(features=FEATURES), LinUcbPolicy(features=FEATURES)], ids=repr
)
def test_servers_give_a_retired_variant_no_share_in_any_context(policy):
    rng = np.random.default_rng(20261201)
    rows = rng.integers(-UNIT, UNIT, size=(40, 2))
    rows[:, 0] = UNIT
    learned = {"": [LinearTotals.of_rows(rows, rng.random(40) * level) for level in (0.2, 1.0, 0.6)]}
    reader = reader_of(decided_by(policy, learned, 3, (0, 2)))
    others = reader_of(decided_by(policy, {"": [learned[""][0], learned[""][2]]}, 2))
    for x in (-1.0, 0.0, 0.7):
        a, b, c = reader.weights({"x": x})
        assert (b, a + c) == (0, WHOLE)
        assert [a, c] == pytest.approx(others.weights({"x": x}), rel=0.05, abs=WHOLE * 0.02)
