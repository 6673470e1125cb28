"""Redaction: removes personal data from texts before they are stored. Pure.

A redactor is a function from a text to the text without what it looks for. Plug-ins are entry
points of the group `wald.redactors`. The built-in ones find what has a recognizable form; they do
not find names or addresses, and they prefer to remove too much.
"""

from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any, Final

from app.core.errors import UnprocessableInput
from app.core.personal_data import KINDS, Kind, redacted
from app.experiments.redactors import BUILT_IN, GROUP
from app.responses.model import Texts

Redactor = Callable[[str], str]


def _without(kind: Kind, text: str) -> str:
    """Remove the personal data of one kind."""
    return redacted(text, (kind,))[0]


_BUILT_IN: Final[dict[str, Redactor]] = {kind: partial(_without, kind) for kind in KINDS}
# Cards before telephone numbers: a card number contains groups that look like one.
_ORDER: Final = ("api_key", "email", "iban", "card", "phone")


@cache
def redactors(names: tuple[str, ...]) -> tuple[tuple[str, Redactor], ...]:
    """Return the named redactors in the order in which they run.

    Raises UnprocessableInput for a plug-in that is not installed: storing the text would be wrong.
    """
    plugins = {point.name: point for point in entry_points(group=GROUP)}
    chosen: list[tuple[str, Redactor]] = [(name, _BUILT_IN[name]) for name in _ORDER if name in names]
    for name in names:
        if name in BUILT_IN:
            continue
        if name not in plugins:
            raise UnprocessableInput(
                f"the redactor {name!r} of this experiment is not installed on this server: install"
                " its package for every server, or remove it from responses.redact",
                field="experiment",
            )
        chosen.append((name, plugins[name].load()))
    return tuple(chosen)


def redact(texts: Texts, names: tuple[str, ...]) -> Texts:
    """Return the texts without what the named redactors remove, and with the names that did.

    Raises UnprocessableInput for a plug-in that is not installed or that fails.
    """
    if not names:
        return texts
    applied: dict[str, None] = {}

    def clean(text: str) -> str:
        for name, redactor in redactors(names):
            before, text = text, _run(name, redactor, text)
            if text != before:
                applied[name] = None
        return text

    cleaned = Texts(
        clean(texts.response),
        None if texts.prompt is None else clean(texts.prompt),
        None if texts.error is None else clean(texts.error),
        _clean_values(texts.metadata, clean),
    )
    return Texts(cleaned.response, cleaned.prompt, cleaned.error, cleaned.metadata, tuple(applied))


def _run(name: str, redactor: Redactor, text: str) -> str:
    try:
        cleaned = redactor(text)
    except Exception as error:
        raise UnprocessableInput(f"the redactor {name!r} failed: {type(error).__name__}") from error
    if not isinstance(cleaned, str):
        raise UnprocessableInput(f"the redactor {name!r} must return a text, got {type(cleaned).__name__}")
    return cleaned


def _clean_values(value: Any, clean: Redactor) -> Any:
    """Return JSON data with every text in it cleaned, keys included."""
    match value:
        case str():
            return clean(value)
        case list():
            return [_clean_values(item, clean) for item in value]
        case dict():
            return {clean(str(key)): _clean_values(item, clean) for key, item in value.items()}
        case _:
            return value
