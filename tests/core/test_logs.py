"""Log lines: repeats are counted instead of written, outages fit on one line, and no password is shown."""

import logging

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from app.core.logs import REPEATS_S, STORM_LINES, STORM_S, Repeats, brief, peer


class Monotonic:
    def __init__(self) -> None:
        self.at_s = 0.0

    def __call__(self) -> float:
        return self.at_s


def written(repeats: Repeats, **line: object) -> dict[str, object] | None:
    """Return the line as it is written; None when it is dropped."""
    try:
        return dict(repeats(None, "warning", {"level": "warning", **line}))
    except structlog.DropEvent:
        return None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), max_size=40))
def test_equal_lines_are_written_once_a_minute_and_counted(lines: list[tuple[str, int]]):
    clock = Monotonic()
    repeats = Repeats(clock)
    n_sent, n_reported, last_at = dict.fromkeys("abc", 0), dict.fromkeys("abc", 0), dict[str, float]()
    for loop, gap_s in lines:
        clock.at_s += gap_s
        n_sent[loop] += 1
        line = written(repeats, event="loop_failed", loop=loop, error="OSError: away")
        if line is None:
            assert clock.at_s - last_at[loop] < REPEATS_S
        else:
            assert loop not in last_at or clock.at_s - last_at[loop] >= REPEATS_S
            last_at[loop] = clock.at_s
            n_reported[loop] += 1 + int(str(line.get("repeated", 0)))
    clock.at_s += REPEATS_S
    for loop in "abc":
        line = written(repeats, event="loop_failed", loop=loop, error="OSError: away")
        assert line is not None
        assert n_reported[loop] + int(str(line.get("repeated", 0))) == n_sent[loop]


def test_another_error_or_subject_is_another_line_and_numbers_make_no_difference():
    repeats = Repeats(Monotonic())
    assert written(repeats, event="loop_failed", loop="a", error="port 5432 failed")
    assert written(repeats, event="loop_failed", loop="a", error="port 5433 failed") is None
    assert written(repeats, event="loop_failed", loop="a", error="no such table")
    assert written(repeats, event="loop_failed", loop="b", error="no such table")


def test_a_storm_of_different_subjects_is_limited_too_but_not_the_access_log():
    clock = Monotonic()
    repeats = Repeats(clock)
    names = [f"e-{number}" for number in range(1_000)]
    passed = [name for name in names if written(repeats, event="publication_left", experiment=name)]
    assert len(passed) == STORM_LINES
    clock.at_s += STORM_S
    assert written(repeats, event="publication_left", experiment=names[-1])
    assert all(written(repeats, event="request", path="/assign") for _ in range(1_000))


def test_lines_of_libraries_are_counted_as_well():
    repeats = Repeats(Monotonic())
    record = logging.LogRecord("library", logging.WARNING, "", 0, "again %s", (1,), None)
    assert [repeats.lets_pass(record) for _ in range(3)] == [True, False, False]


def test_an_error_of_the_driver_is_one_line():
    cause = OSError('connection to "h", port 1 failed\n\tIs the server running?')
    assert brief(OperationalError("SELECT 1", {}, cause)) == 'OSError: connection to "h", port 1 failed'
    assert brief(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@valkey:6379/0", "redis://valkey:6379/0"),
        ("postgresql://wald:s%40cret@db:5432/wald?password=secret", "postgresql://db:5432/wald"),
        ("unix:///run/valkey.sock?password=secret", "unix:///run/valkey.sock"),
    ],
)
def test_a_peer_is_shown_without_its_password(url: str, shown: str):
    assert peer(url) == shown
