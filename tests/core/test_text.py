"""Values that the engines can store."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import limits
from app.core.errors import FieldError, InvalidInput
from app.core.text import check_storable, unstorable

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
STORABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@given(STORABLE)
def test_storable_values_can_be_encoded_as_messagepack_and_json(value):
    assert unstorable(value, "payload") is None
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(value)) == value
    assert json.loads(msgspec.json.encode(value)) == value


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("\0", "must not contain U+0000"),
        ("\udfff", "must not contain lone surrogates"),
        (2**64, "integers must fit 64 bits"),
        (-(2**63) - 1, "integers must fit 64 bits"),
        (float("inf"), "must be finite"),
        (float("nan"), "must be finite"),
    ],
)
def test_unstorable_values_are_found_at_any_depth(bad, reason):
    assert unstorable(bad, "payload") == FieldError("payload", reason)
    assert unstorable({"a": [1, {"b": bad}]}, "payload") == FieldError("payload.a[1].b", reason)
    with pytest.raises(InvalidInput) as caught:
        check_storable([bad], "payload")
    assert caught.value.errors == (FieldError("payload[0]", reason),)


@pytest.mark.parametrize("name", ["\0", "\ud800"])
def test_names_are_checked_and_not_repeated_in_messages(name):
    error = unstorable({"a": {name: 1}}, "payload")
    assert error is not None
    assert error.field == "payload.a"


def test_deep_nesting_is_refused_before_its_end():
    value: list[object] = []
    value.append(value)
    error = unstorable(value, "payload")
    assert error is not None
    assert error.reason == f"nested deeper than {limits.JSON_DEPTH_MAX}"
