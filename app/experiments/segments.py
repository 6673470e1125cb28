"""Segments: which of the declared ones a context is in. Pure."""

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
    """Return one of the declared values, or `OTHER`.

    Texts are compared as they are, true and false as `true` and `false`, whole numbers without a
    fraction: so 3, 3.0 and "3" are one segment.
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
    """Return the number of segments of several attributes together, including `OTHER` of each."""
    return prod(len(segments.values) + 1 for segments in by)


def segment_number(by: Sequence[Segments], context: Mapping[str, Any]) -> int:
    """Return the number of a context's segment among those of several attributes, from 0."""
    number = 0
    for segments in by:
        segment = segment_of(segments, context)
        place = len(segments.values) if segment == OTHER else segments.values.index(segment)
        number = number * (len(segments.values) + 1) + place
    return number


def segment_names(by: Sequence[Segments]) -> list[dict[str, str]]:
    """Return the value of each attribute for each segment, by its number."""
    values = product(*((*segments.values, OTHER) for segments in by))
    return [dict(zip((segments.attribute for segments in by), combined, strict=True)) for combined in values]


def value_errors(field: str, values: Sequence[str]) -> Iterator[FieldError]:
    """Yield what is wrong with the declared values of one attribute."""
    if not 1 <= len(values) <= limits.SEGMENTS_MAX:
        yield FieldError(field, f"must be 1 to {limits.SEGMENTS_MAX}, got {len(values)}")
    if len(set(values)) != len(values):
        yield FieldError(field, "must differ")
    if OTHER in values or "" in values:
        yield FieldError(field, "'other' stands for every other value; '' is not a value")
