"""Bounds of feedback."""

from typing import Final

from app.core.limits import HORIZON_S_MAX

CLOCK_TOLERANCE_S: Final = 60.0  # by which an event may come before its assignment: clocks differ
CLOCK_TOLERANCE_US: Final = round(CLOCK_TOLERANCE_S * 1e6)
WARNINGS_MAX: Final = 20  # in the answer to one request
SUGGESTIONS_MAX: Final = 3  # names that one request has compared with those that are known

EVENT_ID_LENGTH_MAX: Final = 255
RESPONSE_ID_LENGTH_MAX: Final = 256
FEEDBACK_BATCH_MAX: Final = 10_000
FEEDBACK_DEADLINE_S: Final = 5.0
FEEDBACK_FLUSHES_MAX: Final = 8
CLOCK_SKEW_S_MAX: Final = 86_400  # how far ahead of ours a caller's clock may be
FEEDBACK_ENTRY_EVENTS_MAX: Final = 1_000  # in one stream entry
FEEDBACK_ORDER_US_MAX: Final = 1_000_000  # that times of a burst run ahead of the clock, to be distinct
FEEDBACK_PENDING_MAX: Final = 100_000  # events that wait for their acknowledgement
ASSIGNMENT_ID_AHEAD_S_MAX: Final = 86_400  # of our clock: ids are signed, so a clock was wrong, not a caller
# Assignment ids are accepted this long after the horizon of their experiment has passed.
ASSIGNMENT_ID_GRACE_S: Final = 30 * 86_400
FEEDBACK_AGE_S_MAX: Final = HORIZON_S_MAX + ASSIGNMENT_ID_GRACE_S
