"""Effects, counts and durations in sentences. Pure."""

import math
from collections.abc import Sequence
from typing import Final

from app.analysis.bounds import Bounds
from app.analysis.readout.record import MetricReadout, VariantReadout

_POINTS: Final = "percentage points"
_LEAST_PART: Final = 1e-4
"""Losses below this part of the scale are shown as below it."""
_DAYS_PER_YEAR: Final = 365.25


def _scale(metric: MetricReadout) -> tuple[float, str]:
    return (100.0, f" {_POINTS}") if metric.kind == "proportion" else (1.0, "")


def amount(metric: MetricReadout, size: float, *, at_most: bool = False) -> str:
    """Return a size with its unit, as in "3.1 percentage points".

    With `at_most`, a size that three digits would show as next to nothing is "below 0.01".
    """
    factor, unit = _scale(metric)
    if at_most and 0 <= size < _LEAST_PART:
        return f"below {factor * _LEAST_PART:g}{unit}"
    return f"{factor * size:.3g}{unit}"


def bounds(metric: MetricReadout, interval: Bounds | None) -> str:
    """Return an interval of differences, as in "[1.2, 5]"; empty without one."""
    if interval is None:
        return ""
    factor, _ = _scale(metric)
    lower, upper = ("no bound" if bound is None else f"{factor * bound:.3g}" for bound in interval)
    return f"[{lower}, {upper}]"


def signed(metric: MetricReadout, variant: VariantReadout) -> str:
    """Return the effect with its interval, as in "+3.1 percentage points [1.2, 5]"."""
    assert variant.effect is not None, "a verdict has an effect"
    factor, unit = _scale(metric)
    return f"{factor * variant.effect:+.3g}{unit} {bounds(metric, variant.interval)}".rstrip()


def harm(metric: MetricReadout, variant: VariantReadout) -> str:
    """Return a clause about proven harm."""
    return f"{metric.key} of {variant.variant} is worse than the control's: {signed(metric, variant)}"


def listed(names: Sequence[str]) -> str:
    """Return names as in "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def and_more(clauses: Sequence[str], most: int) -> str:
    """Return at most so many clauses, and how many are not named."""
    more = len(clauses) - most
    named = "; ".join(clauses[:most])
    return f"{named}; and {more} more" if more > 0 else named


def round_count(count: float) -> str:
    """Return a count with two significant digits, because it is a guess.

    Worked by hand: 6,214 is "6,200", 17 is "17".
    """
    whole = max(math.ceil(count), 1)
    digits = max(len(str(whole)) - 2, 0)
    return f"{round(whole, -digits):,}"


def duration(days: float) -> str:
    """Return a duration in the unit in which it is at least 1."""
    if days >= 2 * _DAYS_PER_YEAR:
        return f"{days / _DAYS_PER_YEAR:,.0f} years"
    for size, unit in ((1.0, "days"), (1 / 24, "hours"), (1 / 1440, "minutes")):
        if days >= size:
            count = f"{days / size:.2g}" if days / size < 10 else f"{days / size:.0f}"
            return f"{count} {unit}" if count != "1" else f"1 {unit[:-1]}"
    return "less than a minute"
