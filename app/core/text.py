"""Texts and decoded JSON values that the engines can hold and give back unchanged."""

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec

from app.core import limits
from app.core.errors import FieldError, InvalidInput

Key = Annotated[str, msgspec.Meta(pattern=limits.KEY_PATTERN, description="1 to 128 of A-Z a-z 0-9 . _ -")]
"""Name of an experiment, variant, signal or other object of a user."""

_KEY: Final = re.compile(limits.KEY_PATTERN)
_INTEGERS: Final = range(-(2**63), 2**64)
_NAME_LENGTH_MAX: Final = 64


def is_key(text: str) -> bool:
    """Return whether a text is a valid `Key`."""
    return _KEY.match(text) is not None


def check_reason(reason: str) -> str:
    """Return a user's reason. Raises InvalidInput if it is blank or cannot be stored."""
    if not reason.strip():
        raise InvalidInput("must say why", field="reason")
    check_storable(reason, "reason")
    return reason


def check_storable(value: Any, field: str) -> None:
    """Raise InvalidInput naming the first place in `value` that cannot be stored."""
    error = unstorable(value, field)
    if error is not None:
        raise InvalidInput(f"{error.field}: {error.reason}", errors=(error,))


def unstorable(value: Any, field: str) -> FieldError | None:
    """Return the first place in a decoded JSON value that cannot be stored, or None.

    PostgreSQL refuses U+0000, UTF-8 refuses lone surrogates, MessagePack refuses integers beyond 64
    bits, and JSON refuses infinities. Values may nest up to `JSON_DEPTH_MAX`.
    """
    return next(_errors(value, field, 0), None)


def _errors(value: Any, field: str, depth: int) -> Iterator[FieldError]:
    match value:
        case str():
            yield from _text_errors(value, field)
        case float() if not math.isfinite(value):
            yield FieldError(field, "must be finite")
        case int() if value not in _INTEGERS:
            yield FieldError(field, "integers must fit 64 bits")
        case list() | tuple() | dict() if depth >= limits.JSON_DEPTH_MAX:
            yield FieldError(field, f"nested deeper than {limits.JSON_DEPTH_MAX}")
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _errors(item, f"{field}[{index}]", depth + 1)
        case dict():
            for name, item in value.items():
                yield from _text_errors(name, field)
                yield from _errors(item, f"{field}.{name[:_NAME_LENGTH_MAX]}", depth + 1)


def _text_errors(text: str, field: str) -> Iterator[FieldError]:
    if "\0" in text:
        yield FieldError(field, "must not contain U+0000")
    try:
        text.encode()
    except UnicodeEncodeError:
        yield FieldError(field, "must not contain lone surrogates")
