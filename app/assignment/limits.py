"""Bounds of assignment's streams of changes."""

from typing import Final

CHANGES_READERS_MAX: Final = 200  # of one server process
CHANGES_CHUNK: Final = 100  # experiments in one write, between two turns of other requests
CHANGES_COMPARED: Final = 200  # experiments that are compared between two turns of other requests
CHANGES_SPACING_S: Final = 0.2  # between two writes of news to one reader
CHANGES_CHECK_S: Final = 2.0  # how often it is looked whether the reader's key has expired
CHANGES_STALLED_S: Final = 10.0  # that a reader may take for one chunk
CHANGES_HANG_UP_S: Final = 1.0
