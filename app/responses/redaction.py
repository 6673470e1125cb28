"""Redaction: removes personal data from texts before they are stored. Pure.

A redactor is a function from a text to the text without what it looks for. Plug-ins are entry
points of the group `wald.redactors`. The built-in ones find what has a recognizable form; they do
not find names or addresses, and they prefer to remove too much.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final

from app.core.errors import UnprocessableInput
from app.experiments.redactors import BUILT_IN, GROUP
from app.responses.model import Texts

Redactor = Callable[[str], str]

_EMAIL: Final = re.compile(
    r"(?<![\w.+%'-])[\w.+%'-]{1,64}@(?:[\w](?:[\w-]{0,61}[\w])?\.){1,8}[^\W\d_]{2,24}\b"
)
_PHONE: Final = re.compile(
    r"(?<![\w.])(?:"
    r"\+\d{1,3}(?:[ .\-/]?\(?\d{1,5}\)?){2,6}"  # international
    r"|\(0?\d{2,5}\)[ .\-/]?\d{2,4}(?:[ .\-/]?\d{2,4}){1,3}"  # (030) 123456
    r"|0\d{1,4}[ \-/]\d{2,4}(?:[ \-/]?\d{2,4}){1,3}"  # 030 1234567
    r"|\d{3}[ .\-]\d{3}[ .\-]\d{4}"  # 555-123-4567
    r")(?![\w])"
)
_PHONE_DIGITS: Final = range(7, 16)  # E.164
_CARD: Final = re.compile(r"(?<![\w.])(?:\d[ \-]?){12,18}\d(?![\w])")
_CARD_DIGITS: Final = range(13, 20)
_API_KEY: Final = re.compile(
    r"(?<![\w-])(?:"
    r"sk-[A-Za-z0-9_-]{16,}"
    r"|(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|wald_[a-z]{3}_[A-Za-z0-9_]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}|glpat-[A-Za-z0-9_-]{20,}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{30,}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"  # JSON web token
    r")(?![\w-])"
)
_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?"
    r"(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)


def redact_email(text: str) -> str:
    """Remove e-mail addresses."""
    return _EMAIL.sub("[email]", text) if "@" in text else text


def redact_phone(text: str) -> str:
    """Remove telephone numbers: international ones, and the usual national forms."""

    def replace(match: re.Match[str]) -> str:
        digits = sum(character.isdigit() for character in match[0])
        return "[phone]" if digits in _PHONE_DIGITS else match[0]

    return _PHONE.sub(replace, text)


def redact_card(text: str) -> str:
    """Remove numbers of payment cards: 13 to 19 digits whose check digit is right."""

    def replace(match: re.Match[str]) -> str:
        digits = [int(character) for character in match[0] if character.isdigit()]
        return "[card]" if len(digits) in _CARD_DIGITS and passes_luhn(digits) else match[0]

    return _CARD.sub(replace, text)


def redact_api_key(text: str) -> str:
    """Remove API keys of well-known forms, JSON web tokens and private keys."""
    return _API_KEY.sub("[api key]", _PRIVATE_KEY.sub("[api key]", text))


def passes_luhn(digits: Sequence[int]) -> bool:
    """Return whether the last digit is the check digit of the others. Source: ISO/IEC 7812-1."""
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


_BUILT_IN: Final[dict[str, Redactor]] = {
    "email": redact_email,
    "phone": redact_phone,
    "card": redact_card,
    "api_key": redact_api_key,
}
# Cards before telephone numbers: a card number contains groups that look like one.
_ORDER: Final = ("api_key", "email", "card", "phone")


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
