"""Which declared segment a context is in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.experiments.plan import Segments
from app.experiments.segments import OTHER, segment_count, segment_names, segment_number, segment_of

BY = (Segments("device", ("phone", "desktop")), Segments("beta", ("true",)))
NUMBERED = Segments("tier", ("1", "2.5"))


@pytest.mark.parametrize(
    ("context", "segment"),
    [
        ({"tier": 1}, "1"),
        ({"tier": 1.0}, "1"),
        ({"tier": "1"}, "1"),
        ({"tier": 2.5}, "2.5"),
        ({"tier": True}, OTHER),
        ({"tier": "3"}, OTHER),
        ({"tier": None}, OTHER),
        ({"tier": ["1"]}, OTHER),
        ({"tier": 1e300}, OTHER),
        ({}, OTHER),
    ],
)
def test_values_are_compared_as_texts_and_all_else_is_other(context, segment):
    assert segment_of(NUMBERED, context) == segment


def test_attributes_together_make_every_combination_once():
    names = segment_names(BY)
    assert len(names) == segment_count(BY) == 6
    assert names[0] == {"device": "phone", "beta": "true"}
    assert names[-1] == {"device": OTHER, "beta": OTHER}
    assert [segment_number(BY, name) for name in names] == list(range(6))
    assert segment_number(BY, {"device": "desktop", "beta": True}) == 2


values = st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.text())


@given(st.dictionaries(st.sampled_from(["device", "beta"]), values))
def test_every_context_is_in_one_segment(context):
    assert 0 <= segment_number(BY, context) < segment_count(BY)
