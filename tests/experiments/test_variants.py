"""How variants may change while an experiment runs."""

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from app.core.errors import Conflict, InvalidInput
from app.experiments.lifecycle import DefinitionChange, change
from app.experiments.model import Definition, Draft, Experiment, Paused, Running, Stopped, Variant

AT = datetime(2026, 1, 1, tzinfo=UTC)
V1 = Variant("v1", control=True, payload={"prompt": 1})
V2 = Variant("v2", payload={"prompt": 2})
V3 = Variant("v3")
RUNNING = Experiment(
    id=1,
    definition=Definition(key="k", variants=(V1, V2)),
    state=Running(AT),
    salt=b"salt",
    epoch=3,
    revision=7,
    created_at=AT,
    updated_at=AT,
)


def with_variants(experiment, *variants):
    return change(experiment, DefinitionChange(variants=variants))


@pytest.mark.parametrize("state", [Running(AT), Paused(AT, AT)])
def test_a_new_variant_at_the_end_opens_an_epoch(state):
    changed = with_variants(replace(RUNNING, state=state), V1, V2, V3)
    assert [variant.key for variant in changed.definition.variants] == ["v1", "v2", "v3"]
    assert (changed.epoch, changed.control_epoch) == (4, 1)


def test_a_draft_may_have_any_variants_and_opens_no_epoch():
    draft = replace(RUNNING, state=Draft(), epoch=1)
    assert with_variants(draft, V3, replace(V1, payload=None)).epoch == 1


def test_a_stopped_experiment_keeps_its_variants():
    with pytest.raises(Conflict, match="variants cannot change once stopped"):
        with_variants(replace(RUNNING, state=Stopped(AT, AT)), V1, V2, V3)


@pytest.mark.parametrize(
    ("variants", "problem"),
    [
        ((V2, V1), r"variants\[0\].key: must stay 'v1', got 'v2'"),
        ((V1, V3), r"variants\[1\].key: must stay 'v2', got 'v3': add new variants at the end"),
        (
            (V1, replace(V2, payload={"prompt": 3})),
            r"variants\[1\].payload: cannot change once 'v2' was served",
        ),
        ((V1, replace(V2, payload={"prompt": 2.0})), r"variants\[1\].payload"),
        ((V1, replace(V2, payload={"prompt": True})), r"variants\[1\].payload"),
    ],
)
def test_positions_keys_and_payloads_stay(variants, problem):
    with pytest.raises(Conflict, match=problem):
        with_variants(RUNNING, *variants)


def test_a_variant_that_is_left_out_is_named_with_the_way_to_end_it():
    three = with_variants(RUNNING, V1, V2, V3)
    with pytest.raises(Conflict, match='missing v3: to end one, set "retired"'):
        with_variants(three, V1, V2)


def test_a_variant_is_retired_and_taken_back():
    retired = with_variants(RUNNING, V1, replace(V2, retired=True))
    assert (retired.epoch, retired.definition.active) == (4, (0,))
    assert with_variants(retired, V1, V2).definition.active == (0, 1)


def test_the_control_cannot_be_retired():
    with pytest.raises(InvalidInput, match="the control 'v1' cannot be retired"):
        with_variants(RUNNING, replace(V1, retired=True), V2)


def test_another_control_begins_new_comparisons_and_frees_the_shares_of_its_rollout():
    promoted = replace(RUNNING, held={"v2": 1.0})
    changed = with_variants(promoted, replace(V1, control=False, retired=True), replace(V2, control=True))
    assert (changed.epoch, changed.control_epoch, changed.held) == (4, 4, {})
    assert changed.definition.control_key == "v2"


@pytest.mark.parametrize("held", [{"v2": 0.05}, {"v2": 0.5, "v1": 0.5}, {"v2": 0.999}])
@pytest.mark.parametrize(
    "variants",
    [(V1, V2, V3), (V1, replace(V2, retired=True)), (replace(V1, control=False), replace(V2, control=True))],
)
def test_variants_stay_while_a_rollout_is_in_motion(held, variants):
    with pytest.raises(Conflict, match="while a rollout is in motion: complete it or roll it back first"):
        with_variants(replace(RUNNING, held=held), *variants)


def test_what_a_completed_rollout_serves_to_everyone_cannot_be_retired():
    with pytest.raises(Conflict, match="a completed rollout serves 'v2' to everyone"):
        with_variants(replace(RUNNING, held={"v2": 1.0}), V1, replace(V2, retired=True))


def test_after_a_rollback_variants_may_change():
    changed = with_variants(replace(RUNNING, held={"v2": 0.0}), V1, replace(V2, retired=True), V3)
    assert changed.definition.active == (0, 2)
