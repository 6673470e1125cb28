"""Bounds of this room."""

from typing import Final

SUGGESTION_LENGTH_MAX: Final = 64  # of a misspelled name; comparing longer ones takes too long
