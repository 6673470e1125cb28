"""The bounds of an interval as a record holds them. Pure."""

import math

Bounds = tuple[float | None, float | None]
"""Lower and upper bound; null: not bounded on that side."""


def bounds_of(lower: float, upper: float) -> Bounds:
    """Return the bounds, with null in place of infinity."""
    return lower if math.isfinite(lower) else None, upper if math.isfinite(upper) else None
