"""Contexts as vectors: what each entry means, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandits.features import (
    COLUMNS_MAX,
    ENTRY_MAX,
    REWARD_UNIT,
    UNIT,
    Boolean,
    Categorical,
    ContextError,
    Hashed,
    Numeric,
    Schema,
    whole_rewards,
)
from stats.errors import InvalidInput

SCHEMA = Schema(
    (
        Numeric("age", location=40, scale=20),
        Numeric("tokens", scale=1000, missing_column=True),
        Boolean("paid"),
        Categorical("device", ("phone", "desktop"), other_column=True),
        Hashed("task", buckets=4),
    )
)


def test_the_worked_case_holds():
    schema = Schema((Numeric("age", location=40, scale=20), Categorical("device", ("phone", "desktop"))))
    assert schema.columns == ("intercept", "age", "device = phone", "device = desktop")
    assert schema.vector({"age": 50, "device": "phone"}).tolist() == [1, 0.5, 1, 0]
    assert schema.vector({"device": "watch"}).tolist() == [1, 0, 0, 0]


def test_missing_and_unseen_have_columns_of_their_own_where_declared():
    named = dict(zip(SCHEMA.columns, SCHEMA.vector({"device": "watch"}), strict=True))
    assert {column for column, entry in named.items() if entry} == {
        "intercept",
        "tokens missing",
        "device other",
    }
    assert SCHEMA.vector({"device": None, "age": None, "more": 1}).tolist() == list(named.values())


def test_a_boolean_and_its_opposite_are_symmetric_about_missing():
    entry = SCHEMA.columns.index("paid")
    assert [SCHEMA.vector({"paid": paid})[entry] for paid in (True, None, False)] == [1, 0, -1]


def test_a_hash_is_crc_32_modulo_the_buckets():
    """zlib.crc32(b"123456789") is the check value 0xCBF43926 of CRC-32/ISO-HDLC; modulo 4 it is 2."""
    assert SCHEMA.vector({"task": "123456789"})[-4:].tolist() == [0, 0, 1, 0]


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**300), 10**300))
def test_numbers_are_clipped_and_rounded_by_at_most_half_a_unit(value):
    entry = SCHEMA.vector({"age": value})[1]
    fixed = SCHEMA.vector_fixed({"age": value})[1]
    assert entry == fixed / UNIT
    assert abs(fixed) <= ENTRY_MAX
    assert abs(entry - min(max((value - 40) / 20, -8), 8)) <= 0.5 / UNIT + 1e-12


@given(st.integers(-200, 200))
def test_a_whole_number_counts_as_the_same_number_in_binary(age):
    assert (SCHEMA.vector_fixed({"age": age}) == SCHEMA.vector_fixed({"age": float(age)})).all()


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"age": "old"}, "context 'age' must be a number, got 'old'"),
        ({"age": True}, "context 'age' must be a number, got True"),
        ({"age": [1]}, "'age' must be a number"),
        ({"age": math.nan}, "'age' must be a finite number, got nan"),
        ({"age": -math.inf}, "'age' must be a finite number, got -inf"),
        ({"age": 10**400}, "'age' must be a number that binary64 can hold"),
        ({"tokens": math.inf}, "'tokens' must be a finite number"),
        ({"paid": 1}, "'paid' must be true or false, got 1"),
        ({"paid": "yes"}, "'paid' must be true or false"),
        ({"device": 3}, "'device' must be a text, got 3"),
        ({"device": "x" * 257}, "'device' must be a text of at most 256 characters"),
        ({"task": b"bytes"}, "'task' must be a text"),
        ({"task": "x" * 257}, "'task' must be a text of at most 256 characters"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(context, message):
    with pytest.raises(ContextError) as refusal:
        SCHEMA.vector(context)
    assert message in str(refusal.value)
    assert refusal.value.feature in context
    assert len(str(refusal.value)) < 200


def test_a_schema_that_means_nothing_does_not_construct():
    for feature in (
        lambda: Numeric("a", scale=0),
        lambda: Numeric("a", location=math.nan),
        lambda: Categorical("a", ()),
        lambda: Categorical("a", ("x", "x")),
        lambda: Hashed("a", buckets=1),
        lambda: Schema((Numeric("a"), Boolean("a"))),
        lambda: Schema(tuple(Numeric(f"{i}") for i in range(COLUMNS_MAX + 1))),
    ):
        with pytest.raises(InvalidInput):
            feature()
    assert Schema(tuple(Numeric(f"{i}") for i in range(COLUMNS_MAX))).d == COLUMNS_MAX + 1


def test_rows_are_checked_before_they_count():
    contexts = np.array([[UNIT, 0], [UNIT, ENTRY_MAX]])
    assert whole_rewards(contexts, np.array([0.25, 1.0])).tolist() == [REWARD_UNIT // 4, REWARD_UNIT]
    for bad_contexts, bad_rewards in (
        (contexts, np.array([0.5, 1.1])),
        (contexts, np.array([0.5, math.nan])),
        (contexts, np.array([0.5])),
        (np.array([[UNIT, 0], [UNIT, ENTRY_MAX + 1]]), np.array([0.5, 0.5])),
        (contexts[:, ::-1], np.array([0.5, 0.5])),
    ):
        with pytest.raises(InvalidInput):
            whole_rewards(bad_contexts, bad_rewards)
