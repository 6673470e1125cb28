"""Bounds of quality."""

from typing import Final

PLANNED_LABELS: Final = 40  # labels that the planner adds, unless it is asked otherwise
PLANNED_LABELS_MAX: Final = 1_000_000
LABEL_COST_USD_MAX: Final = 10_000.0
QUALITY_LEVEL_MIN: Final = 0.5
QUALITY_LEVEL_MAX: Final = 0.9999
