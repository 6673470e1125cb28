"""Targeting: conditions on the context of a request. Pure; never raises.

The context is what the caller sent: text only by `GET /assign`, any JSON by `POST`. Both must have
the same answer, so text is read as the kind of value it is compared with: `"31"` as 31, `"true"` as
true. Nothing else is converted; values of different kinds are different, and neither greater nor
less.

| operator  | holds when the attribute is …                      | missing or null |
|-----------|----------------------------------------------------|-----------------|
| `in`      | equal to one of the values                         | no              |
| `not_in`  | equal to none of the values                        | yes             |
| `greater` | a number above the value                           | no              |
| `less`    | a number below the value                           | no              |
| `exists`  | there, whatever its value                          | no              |
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, assert_never

from app.experiments.model import Condition

_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def matches(conditions: Sequence[Condition], context: Mapping[str, Any]) -> bool:
    """Return whether the context meets all conditions; without conditions every context does."""
    return all(_holds(condition, context.get(condition.attribute)) for condition in conditions)


def _holds(condition: Condition, given: Any) -> bool:
    match condition.operator:
        case "in":
            return any(_equal(given, value) for value in condition.values)
        case "not_in":
            return not any(_equal(given, value) for value in condition.values)
        case "greater":
            value = number(given)
            return value is not None and value > float(condition.values[0])
        case "less":
            value = number(given)
            return value is not None and value < float(condition.values[0])
        case "exists":
            return given is not None
        case _:
            assert_never(condition.operator)


def _equal(given: Any, value: object) -> bool:
    match value:
        case bool():
            return given is value or given == str(value).lower()
        case str():
            return isinstance(given, str) and given == value
        case _:
            return number(given) == value


def number(given: Any) -> float | None:
    """Return the number that a context value is or reads as; None: it is not a number."""
    if isinstance(given, str):
        return float(given) if _NUMBER.fullmatch(given) else None
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return given
    return None
