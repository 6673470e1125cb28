"""Bounds of responses."""

from typing import Final

READ_RESPONSES_MAX: Final = 1_000  # in one read of the store
