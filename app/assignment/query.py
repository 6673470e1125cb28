"""The query of `GET /assign`: `experiment=KEY&unit=UNIT&context.NAME=VALUE`. Pure, and strict."""

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
    """Return all of them, decoded.

    Raises InvalidInput when one is repeated or unknown, is not UTF-8, has U+0000, or when there are
    too many.
    """
    if len(query) > limits.QUERY_BYTES_MAX:
        raise InvalidInput(f"the query has more than {limits.QUERY_BYTES_MAX} bytes", field="query")
    try:
        text = query.decode("ascii")
        found = [piece.partition("=") for piece in text.split("&")] if text else []
        if "%" in text or "+" in text:
            found = [(_decoded(name), sign, _decoded(value)) for name, sign, value in found]
    except UnicodeDecodeError as error:
        raise InvalidInput("the query must be percent-encoded UTF-8", field="query") from error
    values = {name: value for name, _, value in found}
    if len(values) != len(found):
        raise InvalidInput("a parameter is repeated", field="query")
    if len(values) > limits.CONTEXT_ENTRIES_MAX + len(_NAMES):
        raise InvalidInput(f"at most {limits.CONTEXT_ENTRIES_MAX} context entries", field="context")
    return values


def context(parameters: Mapping[str, str]) -> dict[str, str] | None:
    """What is given as `context.NAME`; None when nothing is. Raises InvalidInput for an unknown parameter."""
    if len(parameters) == len(_NAMES) and all(name in parameters for name in _NAMES):
        return None
    found = {}
    for name, value in parameters.items():
        if name.startswith(PREFIX) and len(name) > len(PREFIX):
            found[name[len(PREFIX) :]] = value
        elif name not in _NAMES:
            raise InvalidInput(
                f"unknown parameter {name[:64]!r}; context goes as context.NAME", field="query"
            )
    return found or None


def typed(context: dict[str, str] | None, features: Sequence[Feature]) -> dict[str, Any] | None:
    """Return a context of texts as the declared features read it: `"42"` as 42, `"true"` as true.

    Texts of numeric features are read as targeting reads numbers, those of boolean ones must be
    `true` or `false`. What does not read so stays a text, for the features to refuse; all else
    stays as it is.
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
