"""Texts for a value that is not allowed: they list the valid values and the nearest one. Pure.

Commands and requests use the same texts.
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
    """Return the text that refuses `given`, lists the valid values and suggests the nearest.

    Worked by hand: `Invalid value 'tompson': one of fixed, thompson; did you mean thompson?`
    """
    return f"Invalid value {given}: one of {', '.join(valid)}{suggestion(given.strip(chr(39)), valid)}"


def suggestion(given: str, valid: Iterable[str]) -> str:
    """Return `; did you mean …?` for the nearest valid value, or nothing if none is near."""
    near = nearest(given, valid)
    return f"; did you mean {near}?" if near is not None else ""


def nearest(given: str, valid: Iterable[str]) -> str | None:
    """Return the valid value most similar to the given one, ignoring case."""
    folded = {value.casefold(): value for value in valid}
    matches = get_close_matches(given.casefold(), folded, n=1)
    return folded[matches[0]] if matches else None


def explained(message: str, kind: Any, path: str) -> str:
    """Add the valid values to a message of msgspec about the field at `path` of a type."""
    if not (match := _NOT_ALLOWED.fullmatch(message)):
        return message
    valid = list(dict.fromkeys(_values(kind, path)))
    return refusal(match["given"], valid) if valid else message


def field_names(kind: Any, path: str) -> list[str]:
    """Return the field names of the object at `path` of a type."""
    return [
        field.encode_name
        for struct in _at(kind, _STEP.findall(path))
        if isinstance(struct, inspect.StructType)
        for field in struct.fields
    ]


def _values(kind: Any, path: str) -> Iterator[str]:
    steps = _STEP.findall(path)
    for choice in _at(kind, steps):
        if isinstance(choice, inspect.LiteralType):
            yield from map(str, choice.values)
        elif isinstance(choice, inspect.EnumType):
            yield from (str(member.value) for member in choice.cls)
    for parent in _at(kind, steps[:-1]):
        if isinstance(parent, inspect.StructType) and steps and parent.tag_field == steps[-1]:
            yield str(parent.tag)


def _at(kind: Any, steps: Sequence[str]) -> list[inspect.Type]:
    """Return the possible types of a value at these steps."""
    try:
        types = _alternatives(inspect.type_info(kind))
    except (TypeError, msgspec.ValidationError):
        return []
    for step in steps:
        types = [
            alternative
            for outer in types
            for inner in _inner(outer, step)
            for alternative in _alternatives(inner)
        ]
    return types


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    match kind:
        case inspect.Metadata(type=inner):
            return _alternatives(inner)
        case inspect.UnionType(types=types):
            return [alternative for inner in types for alternative in _alternatives(inner)]
        case _:
            return [kind]


def _inner(kind: inspect.Type, step: str) -> list[inspect.Type]:
    match kind:
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
