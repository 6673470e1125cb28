"""Strict parser of the query of `GET /assign`. Pure.

The query is `experiment=KEY&unit=UNIT&context.NAME=VALUE`, with any number of context entries.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from app.assignment import limits
from app.core.errors import InvalidInput
from app.experiments import targeting
from bandits.features import Boolean, Feature, Numeric

PREFIX: Final = "context."
_NAMES: Final = ("experiment", "unit")
_BOOLEANS: Final = {"true": True, "false": False}


def parameters(query: bytes) -> dict[str, str]:
    """Return all parameters, decoded.

    Raises InvalidInput for a repeated parameter, text that is not UTF-8, U+0000, a query that is
    too long, or too many parameters.
    """
    if len(query) > limits.QUERY_BYTES_MAX:
        raise InvalidInput(f"the query has more than {limits.QUERY_BYTES_MAX} bytes", field="query")
    try:
        text = query.decode("ascii")
        pairs = [piece.partition("=") for piece in text.split("&")] if text else []
        if "%" in text or "+" in text:
            pairs = [(_decoded(name), sign, _decoded(value)) for name, sign, value in pairs]
    except UnicodeDecodeError as error:
        raise InvalidInput("the query must be percent-encoded UTF-8", field="query") from error
    values = {name: value for name, _, value in pairs}
    if len(values) != len(pairs):
        raise InvalidInput("must not repeat a parameter", field="query")
    if len(values) > limits.CONTEXT_ENTRIES_MAX + len(_NAMES):
        raise InvalidInput(f"must have at most {limits.CONTEXT_ENTRIES_MAX} entries", field="context")
    return values


def context(parameters: Mapping[str, str]) -> dict[str, str] | None:
    """Return the values of `context.NAME`, or None. Raises InvalidInput for unknown names."""
    if len(parameters) == len(_NAMES) and all(name in parameters for name in _NAMES):
        return None
    entries = {}
    for name, value in parameters.items():
        if name.startswith(PREFIX) and len(name) > len(PREFIX):
            entries[name[len(PREFIX) :]] = value
        elif name not in _NAMES:
            raise InvalidInput(
                f"unknown parameter {name[:64]!r}; send context as context.NAME", field="query"
            )
    return entries or None


def typed(context: dict[str, str] | None, features: Sequence[Feature]) -> dict[str, Any] | None:
    """Convert the texts of a context to the types of the declared features.

    `"42"` becomes 42 for a numeric feature, by the rules of targeting. `"true"` and `"false"`
    become booleans. A text that does not convert stays a text, which the feature then refuses.
    """
    if context is None or not features:
        return context
    read: dict[str, Any] = dict(context)
    for feature in features:
        text = context.get(feature.name)
        if text is None:
            continue
        if isinstance(feature, Numeric):
            value = targeting.number(text)
            if value is not None and isfinite(value):
                read[feature.name] = value
        elif isinstance(feature, Boolean) and text in _BOOLEANS:
            read[feature.name] = _BOOLEANS[text]
    return read


def _decoded(text: str) -> str:
    decoded = unquote_to_bytes(text.replace("+", " ")).decode()
    if "\0" in decoded:
        raise InvalidInput("the query must not contain U+0000", field="query")
    return decoded
