"""Texts for a value that is not allowed."""

from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli.display.tables import visible
from app.core.choices import explained, field_names, nearest, refusal
from app.experiments.model import Definition
from app.experiments.policies import Policy
from app.experiments.routes import ROUTES
from tests.support.api import MASTER_KEY, api, bearer, keyring_of_scopes

KINDS = [one.__struct_config__.tag for one in Policy.__args__]
VARIANTS = [{"key": "a", "control": True}, {"key": "b"}]


def test_a_refusal_names_the_value_the_valid_ones_and_the_nearest_once():
    assert refusal("'tompson'", ["fixed", "thompson"]) == (
        "Invalid value 'tompson': one of fixed, thompson; did you mean thompson?"
    )
    assert refusal("'zzz'", ["fixed", "thompson"]) == "Invalid value 'zzz': one of fixed, thompson"


@pytest.mark.parametrize(
    ("kind", "path", "valid"),
    [
        (Definition, "policy.kind", KINDS),
        (Definition, "stickiness", ["none", "unit", "strict"]),
        (Definition, "metrics[0].measure.kind", ["proportion", "mean", "ratio", "quantile"]),
        (Definition, "metrics[3].role", ["guardrail", "primary", "secondary"]),
        (Definition, "reward.combine", ["last", "sum", "max", "mean", "first"]),
        (dict[str, Literal["x", "y"]], "[...]", ["x", "y"]),
    ],
)
def test_valid_values_are_found_wherever_a_type_declares_them(kind, path, valid):
    said = explained("Invalid enum value 'nowhere near'", kind, path)
    assert sorted(said.removeprefix("Invalid value 'nowhere near': one of ").split(", ")) == sorted(valid)


def test_other_messages_and_places_that_do_not_exist_are_left_alone():
    assert explained("Expected `float` <= 1.0", Definition, "policy.kind") == "Expected `float` <= 1.0"
    assert explained("Invalid value 'x'", Definition, "no.such[0].place") == "Invalid value 'x'"
    assert field_names(Definition, "no.such") == []
    assert "variants" in field_names(Definition, "")


@given(st.sampled_from(KINDS), st.data())
def test_a_typo_in_a_policy_kind_gets_a_suggestion(kind, data):
    place = data.draw(st.integers(1, len(kind) - 1))
    slip = data.draw(st.sampled_from(["left out", "doubled", "swapped", "upper case"]))
    typed = {
        "left out": kind[:place] + kind[place + 1 :],
        "doubled": kind[:place] + kind[place] + kind[place:],
        "swapped": kind[: place - 1] + kind[place] + kind[place - 1] + kind[place + 1 :],
        "upper case": kind.upper(),
    }[slip]
    if typed not in KINDS and len(kind) > 3:
        assert nearest(typed, KINDS) is not None
    if len(kind) > 8 and typed not in KINDS:
        assert nearest(typed, KINDS) == kind


@given(st.text())
def test_any_text_is_refused_without_an_error(typed):
    try:
        msgspec.convert({"kind": typed}, Policy)
    except msgspec.ValidationError as error:
        said = explained(str(error).partition(" - at")[0], Policy, "kind")
        assert visible(said)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"policy": {"kind": "tompson"}}, "policy.kind", "Invalid value 'tompson': one of fixed, thompson,"),
        ({"stickiness": "unti"}, "stickiness", "one of none, strict, unit; did you mean unit?"),
        (
            {"metrics": [{"key": "m", "measure": {"kind": "men", "signal": "s"}}]},
            "metrics[0].measure.kind",
            "did you mean mean?",
        ),
        ({"policy": {"kind": "thompson", "posterior": "bet"}}, "policy.posterior", "did you mean beta?"),
        ({"stickines": "unit"}, "stickines", "unknown field; did you mean stickiness?"),
        ({"reward": {"horizon": 3}}, "reward.horizon", "did you mean horizon_s?"),
        ({"zzz": 1}, "zzz", "unknown field"),
    ],
)
async def test_the_server_names_valid_values_and_fields(change, field, reason):
    async with api(ROUTES, {"experiment_service": object()}, keyring_of_scopes()) as client:
        body = {"key": "x", "variants": VARIANTS} | change
        answer = await client.post("/experiments", json=body, headers=bearer(MASTER_KEY))
    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert reason in error["reason"]
    assert answer.json()["detail"] == f"{field}: {error['reason']}"
