"""Bounds of this room."""

from typing import Final

CLOCK_TOLERANCE_S: Final = 60.0  # by which an event may come before its assignment: clocks differ
CLOCK_TOLERANCE_US: Final = round(CLOCK_TOLERANCE_S * 1e6)
WARNINGS_MAX: Final = 20  # in the answer to one request
SUGGESTIONS_MAX: Final = 3  # names that one request has compared with those that are known
SIGNAL_NAMES_MAX: Final = 200  # of an experiment that are counted by name; names that it reads always are
