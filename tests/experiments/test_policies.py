"""A new policy is one file and one row: what a policy declares decides everything else."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

import app.experiments.policies
from app.allocation.model import VariantTotals, allocate
from app.evaluation.targets import Rows, shares, target
from app.experiments.checks import check
from app.experiments.model import Definition, Variant
from app.experiments.policies import KINDS, Policy
from app.experiments.policies.shorthand import policy_of
from app.ledger.draws.step import MOVING_KINDS
from app.ledger.learning.model import LEARNING_KINDS, learning_of
from app.planning.model import Simulation, checked, run

SHARED = {"__init__", "rule", "shorthand", "forgetting", "posterior", "contextual"}
FEATURES = [{"type": "numeric", "name": "length"}]
REQUIRED = {
    "fixed": {"weights": {"a": 0.5, "b": 0.5}},
    "constrained_thompson": {"constraints": [{"metric": "cost", "at_most": 1}]},
    "lin_ts": {"features": FEATURES},
    "lin_ucb": {"features": FEATURES},
    "logistic_ts": {"features": FEATURES},
    "segmented_thompson": {"by": [{"attribute": "device", "values": ["phone"]}]},
}
VARIANTS = (Variant("a", control=True), Variant("b"))
METRICS = [{"key": "cost", "role": "secondary", "measure": {"kind": "mean", "signal": "cost"}}]


def definition(kind):
    variants = [{"key": "a", "control": True}, {"key": "b"}]
    policy = {"kind": kind, **REQUIRED.get(kind, {})}
    given = {"key": "k", "variants": variants, "policy": policy, "metrics": METRICS}
    return msgspec.convert(given, Definition)


def test_every_policy_is_one_file_and_one_row():
    files = {path.stem for path in Path(app.experiments.policies.__file__).parent.glob("*.py")}
    assert files - SHARED == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_is_accepted_allocated_evaluated_and_simulated_as_it_declares(kind):
    defined = check(definition(kind))
    totals = [VariantTotals(assignments=9, rewards=9, reward_sum=n * 10**9) for n in (3, 6)]
    assert sum(allocate(defined, totals)) == 2**32
    spelled = msgspec.to_builtins(defined.policy)
    rows = Rows(
        np.arange(40),
        np.arange(40) % 2,
        np.arange(40) % 3 // 2 * 10**9,
        np.full(40, 0.5),
        [{"length": 1.0, "device": "phone"}] * 40,
    )
    if defined.policy.can_be_evaluated:
        served = shares(target(spelled, defined), defined, rows)
        assert served.sum(axis=1) == pytest.approx(np.ones(40))
    request = {
        "environment": {"kind": "stationary", "means": [0.2, 0.3]},
        "traffic": {"requests_per_day": 20, "days": 1},
        "variants": ["a", "b"],
        "policies": [spelled],
        "runs": 2,
    }
    if defined.policy.can_be_simulated:
        simulation = checked(msgspec.convert(request, Simulation), seconds_usual=1, seconds_max=60)
        assert len(run(simulation).policies) == 1


def test_the_record_of_each_policy_is_as_stated():
    """What each policy reads decides what it can be used for; `best_arm` also declares a winner."""
    policies = [definition(kind).policy for kind in KINDS]

    def kinds(fact):
        return {policy.kind for policy in policies if getattr(policy, fact)}

    contextual = {"lin_ts", "lin_ucb", "logistic_ts", "segmented_thompson"}
    assert set(KINDS) - kinds("moves") == {"fixed"}
    assert set(KINDS) - kinds("can_be_held") == contextual | {"best_arm"}
    assert set(KINDS) - kinds("can_be_shadow") == contextual | {"exp3_ix", "constrained_thompson"}
    assert set(KINDS) - kinds("can_be_evaluated") == {"constrained_thompson"}
    assert set(KINDS) - kinds("can_be_simulated") == contextual | {"best_arm", "constrained_thompson"}
    learning = {policy.kind for policy in policies if learning_of(policy) is not None}
    assert learning == set(LEARNING_KINDS) == contextual | {"exp3_ix"}
    assert set(MOVING_KINDS) == set(KINDS) - contextual - {"fixed"}


def test_a_name_is_short_for_a_policy_with_its_defaults():
    assert policy_of("thompson", ["a"]) == msgspec.convert({"kind": "thompson"}, Policy)
    assert policy_of("fixed", ["a", "b"]).weights == {"a": 0.5, "b": 0.5}
    assert policy_of({"kind": "fixed", "weights": {"b": 1}}, ["a", "b"]).weights == {"a": 0.0, "b": 1.0}
