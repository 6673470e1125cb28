"""What to say of a value that is none of those allowed: all of them, once, and the nearest. Pure.

Options of commands and fields of requests are refused in the same words.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Final

import msgspec
from msgspec import inspect

_STEP: Final = re.compile(r"\[[^\]]*\]|[^.\[\]]+")
_NOT_ALLOWED: Final = re.compile(r"Invalid (enum )?value (?P<given>.*)", re.DOTALL)


def refusal(given: str, valid: Sequence[str]) -> str:
    """Say that `given` is none of the valid values, which they are, and which was probably meant.

    Worked by hand: `Invalid value 'tompson': one of fixed, thompson; did you mean thompson?`
    """
    return f"Invalid value {given}: one of {', '.join(valid)}{suggestion(given.strip(chr(39)), valid)}"


def suggestion(given: str, valid: Iterable[str]) -> str:
    """`; did you mean …?` for the nearest of the valid values, or nothing if none is near."""
    near = nearest(given, valid)
    return f"; did you mean {near}?" if near is not None else ""


def nearest(given: str, valid: Iterable[str]) -> str | None:
    """The valid value that is most like the given one, upper and lower case being the same."""
    folded = {value.casefold(): value for value in valid}
    found = get_close_matches(given.casefold(), folded, n=1)
    return folded[found[0]] if found else None


def explained(message: str, kind: Any, path: str) -> str:
    """A message of msgspec about the field at `path` of a type, with the values that are valid there."""
    if not (found := _NOT_ALLOWED.fullmatch(message)):
        return message
    valid = list(dict.fromkeys(_values(kind, path)))
    return refusal(found["given"], valid) if valid else message


def field_names(kind: Any, path: str) -> list[str]:
    """Return the names of the fields of the object at `path` of a type."""
    return [
        field.encode_name
        for one in _at(kind, _STEP.findall(path))
        if isinstance(one, inspect.StructType)
        for field in one.fields
    ]


def _values(kind: Any, path: str) -> Iterator[str]:
    steps = _STEP.findall(path)
    for one in _at(kind, steps):
        if isinstance(one, inspect.LiteralType):
            yield from map(str, one.values)
        elif isinstance(one, inspect.EnumType):
            yield from (str(member.value) for member in one.cls)
    for parent in _at(kind, steps[:-1]):
        if isinstance(parent, inspect.StructType) and steps and parent.tag_field == steps[-1]:
            yield str(parent.tag)


def _at(kind: Any, steps: Sequence[str]) -> list[inspect.Type]:
    """Return the types that a value at these steps may have."""
    try:
        types = _alternatives(inspect.type_info(kind))
    except (TypeError, msgspec.ValidationError):
        return []
    for step in steps:
        types = [found for one in types for inner in _inner(one, step) for found in _alternatives(inner)]
    return types


def _alternatives(one: inspect.Type) -> list[inspect.Type]:
    match one:
        case inspect.Metadata(type=inner):
            return _alternatives(inner)
        case inspect.UnionType(types=types):
            return [found for inner in types for found in _alternatives(inner)]
        case _:
            return [one]


def _inner(one: inspect.Type, step: str) -> list[inspect.Type]:
    match one:
        case inspect.StructType(fields=fields):
            return [field.type for field in fields if field.encode_name == step]
        case inspect.DictType(value_type=value):
            return [value]
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return [item]
        case inspect.TupleType(item_types=items):
            return list(items)
        case _:
            return []
