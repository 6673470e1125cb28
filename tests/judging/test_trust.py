"""The states of trust, as a table, and the breaker."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import Conflict
from app.judging import limits
from app.judging.breaker import Breaker, BreakerState, RecentCalls
from app.judging.trust import TRANSITIONS, Event, Trust, after, feeds

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.lists(st.sampled_from(Event)))
def test_only_a_calibrated_version_is_ever_promoted(events):
    state, calibrated = Trust.SHADOW, False
    for event in events:
        try:
            state = after(state, event)
        except Conflict:
            continue
        calibrated = calibrated or event is Event.CALIBRATE
        if event in {Event.DRIFT, Event.DEMOTE}:
            assert state is Trust.SHADOW
            calibrated = False
        assert calibrated or state is Trust.SHADOW
        assert feeds(state) == (state is Trust.PROMOTED)


def test_nothing_but_a_promotion_makes_a_version_feed():
    leading = {event for (before, event), state in TRANSITIONS.items() if feeds(state) and not feeds(before)}
    assert leading == {Event.PROMOTE}
    with pytest.raises(Conflict, match="shadow cannot promote"):
        after(Trust.SHADOW, Event.PROMOTE)


def test_drift_sends_every_trusted_version_back():
    for state in (Trust.CALIBRATED, Trust.PROMOTED):
        assert after(state, Event.DRIFT) is Trust.SHADOW


def test_a_breaker_opens_twice_as_long_each_time_and_lets_one_call_try():
    breaker, now = Breaker(), NOW
    waits = []
    for _ in range(12):
        breaker = breaker.opened(now, "timeout")
        assert breaker.calls_max(64) == 0
        waits.append((breaker.reopen_at - now).total_seconds())
        now = breaker.reopen_at
        assert breaker.at(now - timedelta(microseconds=1)).state is BreakerState.OPEN
        breaker = breaker.at(now)
        assert (breaker.state, breaker.calls_max(64)) == (BreakerState.HALF_OPEN, 1)
    assert waits[:3] == [10, 20, 40]
    assert waits[-1] == limits.BREAKER_S_MAX
    assert breaker.closed(now).calls_max(64) == 64
    assert breaker.closed(now).openings == 0


def test_a_breaker_waits_as_long_as_the_endpoint_asks_within_its_bound():
    asked = Breaker().opened(NOW, "rate_limited", retry_after_s=90)
    assert (asked.reopen_at - NOW).total_seconds() == 90
    asked = Breaker().opened(NOW, "rate_limited", retry_after_s=1e9)
    assert (asked.reopen_at - NOW).total_seconds() == limits.BREAKER_S_MAX


@given(st.lists(st.booleans(), max_size=60))
def test_a_breaker_opens_exactly_if_half_of_the_last_calls_failed(failures):
    recent = RecentCalls()
    for position, failed in enumerate(failures):
        last = failures[max(0, position + 1 - limits.BREAKER_CALLS) : position + 1]
        must_open = sum(last) >= limits.BREAKER_FAILURES and sum(last) >= limits.BREAKER_SHARE * len(last)
        assert recent.add(failed=failed) == must_open
