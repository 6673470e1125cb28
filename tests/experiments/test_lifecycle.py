"""Which state follows which, and what may change in each."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from msgspec.structs import replace

from app.core.errors import Conflict, InvalidInput, UnprocessableInput
from app.experiments import lifecycle
from app.experiments.catalogue import SignalKind
from app.experiments.lifecycle import ALLOWED, DefinitionChange, change, opens_epoch
from app.experiments.metrics import Mean, Metric
from app.experiments.model import (
    Archived,
    Condition,
    Definition,
    Draft,
    Experiment,
    LayerRange,
    Paused,
    ResponsePlan,
    Running,
    Stopped,
    Variant,
    kind_of,
)
from app.experiments.plan import AnalysisPlan
from app.experiments.policies import FixedPolicy, ThompsonPolicy, TopTwoPolicy
from app.experiments.policies.posterior import BetaPrior
from app.experiments.reward import Reward

AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = AT + timedelta(days=1)
STATES = [Draft(), Running(AT), Paused(AT, AT), Stopped(AT, AT, "short"), Archived(AT)]
ACTIONS = {
    "start": lambda state: lifecycle.start(state, LATER),
    "pause": lambda state: lifecycle.pause(state, LATER),
    "resume": lifecycle.resume,
    "stop": lambda state: lifecycle.stop(state, LATER, None),
    "archive": lambda state: lifecycle.archive(state, LATER),
}
CHANGES = {
    "key": "other",
    "description": "why",
    "variants": (Variant("control", control=True), Variant("short"), Variant("long")),
    "unit": "user",
    "stickiness": "unit",
    "policy": ThompsonPolicy(exploration_floor=0.1),
    "shadow_policy": TopTwoPolicy(),
    "reward": Reward(silence=0.0),
    "metrics": (Metric(key="latency", measure=Mean("latency_ms")),),
    "plan": AnalysisPlan(alpha=0.01),
    "targeting": (Condition("country", "in", ("FR",)),),
    "overrides": {"me": "short"},
    "layer": LayerRange("answers", 0.2, 0.4),
    "signals": {"tone": SignalKind(meaning="Tone of the answer.")},
    "responses": ResponsePlan(redact=("email",), retention_days=7),
}
IN_FORCE = {
    *("description", "variants", "policy", "shadow_policy", "targeting", "overrides"),
    *("signals", "responses", "metrics"),
}
MUTABLE = {
    "draft": CHANGES.keys() - {"key"},
    "running": IN_FORCE,
    "paused": IN_FORCE,
    "stopped": {"description", "shadow_policy", "signals", "responses"},
    "archived": set(),
}


def experiment(state, **fields) -> Experiment:
    definition = Definition(
        key="summary-prompt", variants=(Variant("control", control=True), Variant("short")), **fields
    )
    return Experiment(
        id=1, definition=definition, state=state, salt=b"", epoch=3, revision=7, created_at=AT, updated_at=AT
    )


@pytest.mark.parametrize("state", STATES, ids=kind_of)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_transition_works_where_it_is_allowed_and_is_else_refused_naming_what_is(state, action):
    kind = kind_of(state)
    if action in ALLOWED[kind]:
        assert kind_of(ACTIONS[action](state)) != kind
    else:
        with pytest.raises(Conflict) as caught:
            ACTIONS[action](state)
        allowed = " or ".join(ALLOWED[kind]) or "nothing"
        assert caught.value.detail == (
            f"cannot {action} an experiment that is {kind}; allowed now: {allowed}"
        )


def test_states_remember_when_things_happened():
    assert lifecycle.start(Draft(), AT) == Running(AT)
    assert lifecycle.pause(Running(AT), LATER) == Paused(AT, LATER)
    assert lifecycle.resume(Paused(AT, LATER)) == Running(AT)
    assert lifecycle.stop(Paused(AT, AT), LATER, "short") == Stopped(AT, LATER, "short")
    assert lifecycle.archive(Stopped(AT, AT), LATER) == Archived(LATER)


def test_the_winner_has_to_be_a_variant():
    definition = experiment(Running(AT)).definition
    lifecycle.check_winner(definition, None)
    lifecycle.check_winner(definition, "short")
    with pytest.raises(UnprocessableInput, match="no variant is called 'long'; there are control, short"):
        lifecycle.check_winner(definition, "long")


def test_a_change_can_name_every_field_of_a_definition():
    about_the_change = {"reason", "reopen_plan"}
    assert set(DefinitionChange.__struct_fields__) - about_the_change == set(Definition.__struct_fields__)
    assert CHANGES.keys() == set(Definition.__struct_fields__)


@pytest.mark.parametrize("state", STATES, ids=kind_of)
@pytest.mark.parametrize("field", CHANGES)
def test_each_field_changes_only_while_it_may(state, field):
    before, kind = experiment(state), kind_of(state)
    request = DefinitionChange(**{field: CHANGES[field]})
    if field in MUTABLE[kind]:
        after = change(before, request)
        assert after.definition == replace(before.definition, **{field: CHANGES[field]})
    else:
        with pytest.raises(Conflict) as caught:
            change(before, request)
        assert [error.field for error in caught.value.errors] == [field]
        assert "create a new experiment" in caught.value.detail


def test_a_running_experiment_says_how_to_change_what_it_means():
    with pytest.raises(Conflict) as caught:
        change(experiment(Running(AT)), DefinitionChange(unit="user", reward=Reward(silence=0.5)))
    assert caught.value.detail == "unit cannot change while running: stop it and create a new experiment"
    with pytest.raises(Conflict, match="reopen_plan"):
        change(experiment(Running(AT)), DefinitionChange(reward=Reward(silence=0.5)))


@pytest.mark.parametrize(
    "policy",
    [
        FixedPolicy({"control": 0.5, "short": 0.5}),
        ThompsonPolicy(exploration_floor=0.2),
        ThompsonPolicy(prior=BetaPrior(2.0, 2.0)),
    ],
)
@pytest.mark.parametrize("state", [Running(AT), Paused(AT, AT)], ids=kind_of)
def test_a_new_allocation_rule_in_force_opens_an_epoch(state, policy):
    before = experiment(state)
    after = change(before, DefinitionChange(policy=policy))
    assert after.epoch == before.epoch + 1
    assert opens_epoch(before, after)


def test_nothing_else_opens_an_epoch_but_the_start():
    draft, running = experiment(Draft()), experiment(Running(AT))
    assert opens_epoch(draft, running)
    others = [(running, field) for field in ("shadow_policy", "targeting", "overrides")]
    for before, field in [(draft, "policy"), *others]:
        after = change(before, DefinitionChange(**{field: CHANGES[field]}))
        assert after.epoch == before.epoch
        assert not opens_epoch(before, after)


def test_asking_for_what_is_already_so_changes_nothing_in_any_state():
    for state in STATES:
        before = experiment(state, policy=FixedPolicy({"control": 0.5, "short": 0.5}))
        same = msgspec.convert(msgspec.to_builtins(before.definition), DefinitionChange)
        assert change(before, same) is before
        assert change(before, DefinitionChange()) is before
        reordered = FixedPolicy({"short": 0.5, "control": 0.5})
        assert change(before, DefinitionChange(policy=reordered)) is before


def test_null_removes_a_shadow_policy_and_leaving_it_out_keeps_it():
    before = experiment(Running(AT), shadow_policy=TopTwoPolicy())
    assert change(before, DefinitionChange(description="why")).definition.shadow_policy == TopTwoPolicy()
    assert change(before, DefinitionChange(shadow_policy=None)).definition.shadow_policy is None


def test_true_and_1_are_two_payloads():
    def variants(value):
        return (Variant("control", control=True), Variant("short", payload={"stream": value}))

    before = change(experiment(Draft()), DefinitionChange(variants=variants(1)))
    assert change(before, DefinitionChange(variants=variants(True))) is not before
    with pytest.raises(Conflict):
        change(replace(before, state=Running(AT)), DefinitionChange(variants=variants(True)))


def test_a_change_is_checked_as_a_whole_with_what_stays():
    with pytest.raises(InvalidInput) as caught:
        change(experiment(Running(AT)), DefinitionChange(policy=FixedPolicy({"control": 1.0})))
    assert caught.value.errors[0].field == "policy.weights"
