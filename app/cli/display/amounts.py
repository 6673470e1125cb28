"""Numbers as people read them. Pure. What is not known is `n/a`."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple

MISSING: Final = "n/a"
"""Shown for a number that is not known."""
_DIGITS_MAX: Final = 1e15


def number(value: float | None, *, signed: bool = False) -> str:
    """Four significant digits, or a whole number with thousands separated.

    Worked by hand: 0.12345 is `0.1235`, 12345.6 is `12,346`, 1e20 is `1e+20`.
    """
    if value is None:
        return MISSING
    sign = "+" if signed else ""
    if 1e3 <= abs(value) < _DIGITS_MAX:
        return f"{value:{sign},.0f}"
    return f"{value:{sign}.4g}"


def decimal(value: float | None) -> str:
    """Three decimals, for what lies between 0 and 1."""
    return MISSING if value is None else f"{value:.3f}"


def decimal_interval(bounds: Sequence[float] | None) -> str:
    """Both bounds with three decimals."""
    return MISSING if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def percent(share: float | None, *, signed: bool = False, decimals: int = 1) -> str:
    """A share in percent; more than a million percent with four significant digits."""
    if share is None:
        return MISSING
    sign = "+" if signed else ""
    return f"{share:{sign}.{decimals}%}" if abs(share) < 1e4 else f"{share * 100:{sign}.4g}%"


def points(difference: float | None) -> str:
    """A difference of proportions in percentage points."""
    return MISSING if difference is None else f"{difference * 100:+.2f} pp"


def p_value(value: float | None) -> str:
    """Two significant digits; below 0.0001 only that."""
    if value is None:
        return MISSING
    return "<0.0001" if value < 1e-4 else f"{value:.2g}"


def e_value(value: float | None) -> str:
    """Three significant digits."""
    return MISSING if value is None else f"{value:.3g}"


def interval(bounds: Sequence[float | None] | None, *, signed: bool = False) -> str:
    """Both bounds in the metric's own unit; null is no bound."""
    if bounds is None:
        return MISSING
    low, high = bounds
    lower = "-inf" if low is None else number(low, signed=signed)
    upper = "inf" if high is None else number(high, signed=signed)
    return f"{lower} to {upper}"


def percent_interval(bounds: Sequence[float | None] | None, *, signed: bool = False) -> str:
    """Both bounds in percent; null is no bound."""
    if bounds is None:
        return MISSING
    low, high = bounds
    lower = "-inf" if low is None else percent(low, signed=signed)
    upper = "inf" if high is None else percent(high, signed=signed)
    return f"{lower} to {upper}"


def points_interval(bounds: Sequence[float | None] | None) -> str:
    """Both bounds of a difference of proportions, in percentage points; null is no bound."""
    if bounds is None:
        return MISSING
    low, high = bounds
    lower = "-inf" if low is None else f"{low * 100:+.2f}"
    upper = "inf" if high is None else f"{high * 100:+.2f}"
    return f"{lower} to {upper} pp"


def count(value: int | None) -> str:
    """A whole number with thousands separated."""
    return MISSING if value is None else f"{value:,}"


def minute(at: datetime) -> str:
    """Return a time to the minute."""
    return at.strftime("%Y-%m-%d %H:%M")


Bounds = Sequence[float | None]


class Amounts(NamedTuple):
    """How the values of a metric, their differences, and intervals of the differences are written."""

    value: Callable[[float | None], str]
    difference: Callable[[float | None], str]
    interval: Callable[[Bounds | None], str]


PROPORTION: Final = Amounts(percent, points, points_interval)
PLAIN: Final = Amounts(number, partial(number, signed=True), partial(interval, signed=True))
RELATIVE: Final = Amounts(number, partial(percent, signed=True), partial(percent_interval, signed=True))


def amounts_of(kind: str) -> Amounts:
    """Proportions are in percent and their differences in percentage points; others in their own unit."""
    return PROPORTION if kind == "proportion" else PLAIN
