"""The language of a text, by py3langid. Pure."""

import re
from functools import cache, lru_cache
from typing import Final

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from app.judging.judges import limits

_NOT_PROSE: Final = re.compile(r"```.{0,20000}?(?:```|\Z)|`[^`\n]{0,500}`|https?://\S+", re.DOTALL)
_LETTER: Final = re.compile(r"[^\W\d_]")
_READ_MAX: Final = 500  # characters that are enough for any language
_REMEMBERED: Final = 1_024  # texts: several judges read the same responses


def letters(prose: str) -> int:
    """Return the number of letters of a text."""
    return len(_LETTER.findall(prose))


def prose(text: str) -> str:
    """Return the start of a text without code and URLs, which have no language."""
    if "`" in text or "://" in text:
        text = _NOT_PROSE.sub(" ", text[: limits.RULE_LENGTH])
    return text[:_READ_MAX]


@lru_cache(maxsize=_REMEMBERED)
def language(prose: str) -> tuple[str, float]:
    """Return the ISO 639 code of a text's language, and its probability among all languages.

    Short texts are a guess: `ok` is Afrikaans.
    """
    code, confidence = _identifier().classify(prose)
    return str(code), float(confidence)


def known_languages() -> list[str]:
    """Return the codes of all languages that can be recognized."""
    return [str(code) for code in _identifier().labels]


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
