"""E-values and the p-value that is valid at every look."""

import math

import msgspec
import pytest

from stats.eprocess import AlwaysValid, EValue
from stats.yeast import Yeast


def test_an_always_valid_p_never_rises_and_merges_in_any_order():
    looks = [EValue(math.log(e)) for e in (2, 25, 10)]
    state = AlwaysValid()
    seen = [(state := state.after(look)).p_value for look in looks]
    assert seen == pytest.approx([1 / 2, 1 / 25, 1 / 25])
    other = AlwaysValid().after(looks[0])
    assert state.merge(other) == other.merge(state) == state
    assert msgspec.json.decode(msgspec.json.encode(state), type=AlwaysValid) == state


def test_overwhelming_evidence_is_neither_zero_nor_infinite():
    strong = EValue(1e6)
    assert strong.p_value > 0
    assert strong.value == math.inf
    assert AlwaysValid().after(strong).log_p_value == -1e6
    assert EValue(-math.inf).p_value == 1
    assert Yeast(0.05).p_value(1e3) > 0
