"""When a delivery is tried again, and when it is given up."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.jobs.limits import JOB_JITTER, JOB_RETRY_AFTER_S_MAX
from app.jobs.retry import retry_after_s
from app.webhooks.model import OPEN_STATES, DeliveryState
from app.webhooks.schedule import THROTTLED, WAITS_S, Answer, settle

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JITTERS = st.floats(0, 1, exclude_max=True)
STATUSES = st.none() | st.integers(100, 599)
WAITS = st.none() | st.floats(0, 1e9)
ANSWERS = st.builds(Answer, status=STATUSES, retry_after_s=WAITS)
STEPS = st.integers(0, len(WAITS_S) - 1)


def test_the_schedule_is_that_of_the_specification_with_a_denser_first_minute():
    minute, hour = 60, 3_600
    seconds = (0, 5, 15, minute)
    later = (5 * minute, 30 * minute, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour)
    assert seconds + later == WAITS_S


@given(STEPS, st.integers(200, 299), JITTERS)
def test_every_2xx_is_the_end(step, status, jitter):
    settled = settle(step, Answer(status), jitter=jitter)
    assert (settled.state, settled.wait_s) == (DeliveryState.DELIVERED, None)


@given(STEPS, JITTERS)
def test_410_is_the_end_at_once(step, jitter):
    assert settle(step, Answer(410), jitter=jitter).state is DeliveryState.GIVEN_UP


@given(STEPS, ANSWERS, JITTERS)
def test_a_delivery_is_open_exactly_while_there_is_a_next_attempt(step, answer, jitter):
    settled = settle(step, answer, jitter=jitter)
    assert (settled.state in OPEN_STATES) == (settled.wait_s is not None)


@given(STEPS, ANSWERS, JITTERS)
def test_a_wait_is_never_shorter_than_the_schedule_and_always_bounded(step, answer, jitter):
    settled = settle(step, answer, jitter=jitter)
    if settled.wait_s is None:
        return
    planned = WAITS_S[step + 1]
    assert settled.step == step + 1
    assert planned <= settled.wait_s
    longest = planned * (1 + JOB_JITTER)
    if answer.status in THROTTLED and answer.retry_after_s is not None:
        longest = max(longest, JOB_RETRY_AFTER_S_MAX)
        assert settled.wait_s >= min(answer.retry_after_s, JOB_RETRY_AFTER_S_MAX)
    assert settled.wait_s <= longest


@given(st.lists(ANSWERS, min_size=len(WAITS_S), max_size=len(WAITS_S)), JITTERS)
def test_a_delivery_ends_with_its_schedule_for_any_answers(answers, jitter):
    step, attempts, state = 0, 0, DeliveryState.PENDING
    for answer in answers:
        if state not in OPEN_STATES:
            break
        settled = settle(step, answer, jitter=jitter)
        step, state, attempts = settled.step, settled.state, attempts + 1
    assert state not in OPEN_STATES
    assert attempts <= len(WAITS_S)
    if not any(answer.delivered or answer.gone for answer in answers):
        assert (state, attempts) == (DeliveryState.GIVEN_UP, len(WAITS_S))


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 404, 500, None])
def test_redirects_and_refusals_are_failures_like_any_other(status):
    assert settle(0, Answer(status), jitter=0).state is DeliveryState.FAILED


def test_only_throttling_statuses_honour_retry_after():
    assert settle(0, Answer(429, retry_after_s=90), jitter=0).wait_s == 90
    assert settle(0, Answer(500, retry_after_s=90), jitter=0).wait_s == 5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Thu, 01 Jan 2026 00:02:00 GMT", 120.0),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0.0),
        ("9" * 5_000, 999_999_999_999.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Thu, 01 Jan 2026 00:02:00", None),
        ("Thu, 99 Jan 99999999999 00:02:00 GMT", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value, seconds):
    assert retry_after_s(value, NOW) == seconds


@given(st.text(max_size=60))
def test_retry_after_never_raises(value):
    seconds = retry_after_s(value, NOW)
    assert seconds is None or 0 <= seconds < timedelta.max.total_seconds() * 100
