"""Checks of the bounds of parameters.

Each error names the parameter, its value and its bound.
"""

import math
from fractions import Fraction

from stats.errors import InsufficientData, InvalidInput


def open_unit(value: float, name: str) -> None:
    """Raises InvalidInput unless `value` is in (0, 1)."""
    if not 0 < value < 1:
        raise InvalidInput(f"{name} must be in (0, 1), got {value:g}")


def closed_unit(value: float, name: str) -> None:
    """Raises InvalidInput unless `value` is in [0, 1]."""
    if not 0 <= value <= 1:
        raise InvalidInput(f"{name} must be in [0, 1], got {value:g}")


def within(value: float, least: float, greatest: float, name: str) -> None:
    """Raises InvalidInput unless `value` is in [least, greatest]."""
    if not least <= value <= greatest:
        raise InvalidInput(f"{name} must be in [{least:g}, {greatest:g}], got {value:g}")


def positive(value: float, name: str) -> None:
    """Raises InvalidInput unless `value` is positive and finite."""
    if not 0 < value < math.inf:
        raise InvalidInput(f"{name} must be positive and finite, got {value:g}")


def not_negative(value: float, name: str) -> None:
    """Raises InvalidInput unless `value` is finite and at least 0."""
    if not 0 <= value < math.inf:
        raise InvalidInput(f"{name} must be at least 0 and finite, got {value:g}")


def finite(value: float | Fraction, name: str) -> None:
    """Raises InvalidInput unless `value` is finite."""
    if not math.isfinite(value):
        raise InvalidInput(f"{name} must be finite, got {float(value):g}")


def n_at_least(n: int, least: int, of: str) -> None:
    """Raises InsufficientData if fewer than `least` of something were observed."""
    if n < least:
        raise InsufficientData(f"needs at least {least} {of}, has {n}")
