"""Rate limit of wrong keys per caller."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.throttle import Throttle, caller_of


@given(
    burst=st.integers(1, 20),
    per_s=st.floats(0.1, 50),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_no_window_holds_more_than_the_burst_and_the_rate(burst: int, per_s: float, gaps: list[float]):
    throttle = Throttle(burst=burst, per_s=per_s)
    now_s, admitted = 0.0, list[float]()
    for gap_s in gaps:
        now_s += gap_s
        wait_s = throttle.charge("caller", now_s)
        if wait_s == 0:
            admitted.append(now_s)
        else:
            assert throttle.wait_s("caller", now_s + wait_s + 1e-6) == 0, "what it says is enough"
    for first, start_s in enumerate(admitted):
        for last in range(first, len(admitted)):
            assert last - first + 1 <= burst + per_s * (admitted[last] - start_s) + 1e-6


@given(st.lists(st.integers(0, 60), max_size=300))
def test_callers_do_not_touch_each_other_and_memory_is_bounded(callers: list[int]):
    throttle = Throttle(burst=1, per_s=0.001, callers_max=20)
    for number in callers:
        throttle.charge(f"caller {number}", 0.0)
        assert len(throttle) <= 20
    assert throttle.wait_s("another", 0.0) == 0.0


@pytest.mark.parametrize(
    ("client", "caller"),
    [
        (("203.0.113.9", 5), "203.0.113.9"),
        (("::ffff:203.0.113.9", 5), "203.0.113.9"),
        (("2001:db8:0:1::7", 5), caller_of(("2001:db8:0:1:ffff::9", 6))),
        (None, ""),
        (("x" * 500, 0), "x" * 64),
    ],
)
def test_a_caller_is_an_address_or_a_network_of_version_6(client: tuple[str, int] | None, caller: str):
    assert caller_of(client) == caller
