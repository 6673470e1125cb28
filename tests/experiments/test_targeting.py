"""Who takes part."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.experiments.model import Condition
from app.experiments.targeting import matches

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
VALUES = st.text(max_size=3) | st.floats(allow_nan=False) | st.booleans()
CONDITIONS = st.one_of(
    st.builds(
        Condition, st.just("a"), st.sampled_from(["in", "not_in"]), st.lists(VALUES, min_size=1).map(tuple)
    ),
    st.builds(
        Condition,
        st.just("a"),
        st.sampled_from(["greater", "less"]),
        st.tuples(st.floats(allow_nan=False)),
    ),
    st.just(Condition("a", "exists")),
)


def holds(operator, given_value, *values) -> bool:
    return matches([Condition("a", operator, values)], {"a": given_value})


def test_without_conditions_everybody_takes_part():
    assert matches([], {})


def test_all_conditions_have_to_hold():
    adults_in_france = [Condition("country", "in", ("FR",)), Condition("age", "greater", (17.0,))]
    assert matches(adults_in_france, {"country": "FR", "age": 18})
    assert not matches(adults_in_france, {"country": "FR", "age": 17})
    assert not matches(adults_in_france, {"country": "DE", "age": 18})


@pytest.mark.parametrize(
    ("given_value", "value", "equal"),
    [
        ("FR", "FR", True),
        ("fr", "FR", False),
        (31, 31.0, True),
        ("31", 31.0, True),
        ("3.1e1", 31.0, True),
        (" 31", 31.0, False),
        ("3_1", 31.0, False),
        ("\u0663", 3.0, False),
        (31, "31", False),
        (True, True, True),
        ("true", True, True),
        ("True", True, False),
        ("false", False, True),
        (1, True, False),
        (True, 1.0, False),
        (0, False, False),
        (None, False, False),
        ([True], True, False),
        ({"FR": 1}, "FR", False),
    ],
)
def test_text_is_read_as_the_kind_it_is_compared_with_and_nothing_else_is_converted(
    given_value, value, equal
):
    assert holds("in", given_value, "other", value) is equal
    assert holds("not_in", given_value, "other", value) is not equal


@pytest.mark.parametrize(
    ("given_value", "greater", "less"),
    [
        (11, True, False),
        (10, False, False),
        (9.5, False, True),
        ("11", True, False),
        ("9", False, True),
        (10**400, True, False),
        (-(10**400), False, True),
        ("9" * 5_000, True, False),
        ("ten", False, False),
        ("nan", False, False),
        ("inf", False, False),
        (True, False, False),
        ([11], False, False),
        (None, False, False),
    ],
)
def test_numbers_have_an_order_and_nothing_else_has(given_value, greater, less):
    assert holds("greater", given_value, 10.0) is greater
    assert holds("less", given_value, 10.0) is less


@pytest.mark.parametrize("context", [{}, {"a": None}])
def test_a_missing_attribute_meets_not_in_only(context):
    assert matches([Condition("a", "not_in", ("x",))], context)
    for condition in [
        Condition("a", "in", ("x",)),
        Condition("a", "greater", (0.0,)),
        Condition("a", "less", (0.0,)),
        Condition("a", "exists"),
    ]:
        assert not matches([condition], context)


@pytest.mark.parametrize("value", [False, 0, "", [], {}])
def test_an_attribute_exists_whatever_its_value(value):
    assert holds("exists", value)


@given(CONDITIONS, st.dictionaries(st.sampled_from("ab"), JSON))
def test_no_context_makes_targeting_fail(condition, context):
    assert matches([condition], context) in {True, False}


@given(st.lists(VALUES, min_size=1).map(tuple), JSON)
def test_not_in_is_the_opposite_of_in(values, given_value):
    assert holds("in", given_value, *values) is not holds("not_in", given_value, *values)


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53))
def test_a_number_and_its_text_take_part_alike(bound, number):
    for operator in ("greater", "less", "in"):
        assert holds(operator, number, bound) is holds(operator, str(number), bound)
