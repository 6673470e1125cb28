"""Bounds of evaluation."""

from typing import Final

EVALUATION_ROWS_MAX: Final = 200_000  # of a longer log a random sample of units is read
EVALUATION_PAGE_ROWS: Final = 2_000
