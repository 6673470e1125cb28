"""Which of its declared segments a context is in. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, Final

from app.core.errors import FieldError
from app.experiments import limits
from app.experiments.plan import Segments

OTHER: Final = "other"
"""The segment of every value that is not declared, and of none."""


def segment_of(segments: Segments, context: Mapping[str, Any]) -> str:
    """One of the declared values, or `OTHER`.

    Texts are compared as they are, true and false as `true` and `false`, whole numbers without a fraction:
    so 3, 3.0 and "3" are one segment.
    """
    value = context.get(segments.attribute)
    name = value if isinstance(value, str) else _named(value)
    return name if name in segments.values else OTHER


def _named(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.0f}" if value == int(value) else repr(value)
    return None


def segment_count(by: Sequence[Segments]) -> int:
    """How many segments several attributes make together, `OTHER` of each among them."""
    return prod(len(one.values) + 1 for one in by)


def segment_number(by: Sequence[Segments], context: Mapping[str, Any]) -> int:
    """Which of the segments that several attributes make together, from 0."""
    number = 0
    for one in by:
        found = segment_of(one, context)
        place = len(one.values) if found == OTHER else one.values.index(found)
        number = number * (len(one.values) + 1) + place
    return number


def segment_names(by: Sequence[Segments]) -> list[dict[str, str]]:
    """Of each segment, by its number, the value of each attribute."""
    values = product(*((*one.values, OTHER) for one in by))
    return [dict(zip((one.attribute for one in by), combined, strict=True)) for combined in values]


def value_errors(field: str, values: Sequence[str]) -> Iterator[FieldError]:
    """Yield what is wrong with the declared values of one attribute."""
    if not 1 <= len(values) <= limits.SEGMENTS_MAX:
        yield FieldError(field, f"must be 1 to {limits.SEGMENTS_MAX}, got {len(values)}")
    if len(set(values)) != len(values):
        yield FieldError(field, "must differ")
    if OTHER in values or "" in values:
        yield FieldError(field, "'other' stands for every other value; '' is not a value")
