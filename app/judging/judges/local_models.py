"""Models whose weights are in a wheel. They read texts in this process and download nothing. Pure.

Source: wordllama (static embeddings), VADER (Hutto and Gilbert, 2014: a lexicon) and
alt-profanity-check (a linear support vector machine).
"""

import importlib
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np

from app.core.errors import InvalidInput
from app.judging.judges import limits
from app.judging.judges.languages import language, letters, prose
from app.judging.judges.model import Judged, JudgedText, Judgement, LocalModel, Reason, Unscored
from app.judging.judges.templates import readable

LIBRARIES: Final[dict[LocalModel, str]] = {
    "relevance": "wordllama",
    "sentiment": "vaderSentiment",
    "profanity": "alt-profanity-check",
}
_RELEVANCE_READ: Final = 1_000  # characters at the start of a text; more hardly move its embedding
_PASSAGE: Final = 150  # characters; a longer text dilutes an insult
_OVERLAP: Final = 30
_PASSAGES_MAX: Final = 200
_SENTENCE: Final = 400  # characters
_SENTENCES_MAX: Final = 8
_LETTERS_FOR_LANGUAGE: Final = 40
_SENTENCE_END: Final = re.compile(r"(?<=[.!?…])\s+|\n+")
_WORD: Final = re.compile(r"[\w'-]+")


def release(model: LocalModel) -> str:
    """Return the installed library of a model with its version. Raises InvalidInput without it."""
    library = LIBRARIES[model]
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError as error:
        raise InvalidInput(
            f"the model {model} needs the extra: install wald[judges-local]", field="model"
        ) from error


def scores(model: LocalModel, items: Sequence[JudgedText]) -> list[Judgement]:
    """Return the score of each response, in order."""
    return _MODELS[model](items)


def _relevance(items: Sequence[JudgedText]) -> list[Judgement]:
    """Score by the cosine of prompt and response; opposite directions count as unrelated."""
    prompts = [readable((item.prompt or "")[:_RELEVANCE_READ]) for item in items]
    responses = [readable(item.response[:_RELEVANCE_READ]) for item in items]
    embeddings = _embedding().embed([*prompts, *responses])
    asked, answered = embeddings[: len(items)], embeddings[len(items) :]
    lengths = np.linalg.norm(asked, axis=1) * np.linalg.norm(answered, axis=1)
    # cosines: shape (n_items,); NaN where a text has no words
    cosines = np.divide(
        (asked * answered).sum(axis=1), lengths, out=np.full(len(items), np.nan), where=lengths > 0
    )
    return [_related(item, float(cosine)) for item, cosine in zip(items, cosines, strict=True)]


def _related(item: JudgedText, cosine: float) -> Judgement:
    if item.prompt is None:
        return Unscored(reason=Reason.PROMPT_MISSING, detail="relevance compares with the prompt")
    if not np.isfinite(cosine):
        return Unscored(reason=Reason.TOO_SHORT, detail="prompt or response has no words")
    return Judged(score=min(1.0, max(0.0, cosine)), reasons=f"cosine {cosine:.3f}")


def _sentiment(items: Sequence[JudgedText]) -> list[Judgement]:
    return [_felt(item.response) for item in items]


def _felt(text: str) -> Judgement:
    """Score by the mean of sentences with words of the lexicon, evenly spread over the text."""
    if other := _not_english(text):
        return other
    analyzer = _sentiments()
    lexicon = analyzer.lexicon
    sentences = [
        sentence
        for sentence in _SENTENCE_END.split(text[: limits.RULE_LENGTH])
        if any(word in lexicon for word in _WORD.findall(sentence.lower()))
    ]
    if not sentences:
        return Unscored(reason=Reason.UNDECIDED, detail="no word of the lexicon of sentiments")
    step = max(1, -(-len(sentences) // _SENTENCES_MAX))
    compounds = [analyzer.polarity_scores(sentence[:_SENTENCE])["compound"] for sentence in sentences[::step]]
    mean = sum(compounds) / len(compounds)
    return Judged(score=(mean + 1) / 2, reasons=f"mean of {len(compounds)} sentences: {mean:+.2f}")


def _profanity(items: Sequence[JudgedText]) -> list[Judgement]:
    """Score by the most offensive passage of each response."""
    passages = [_passages(item.response) for item in items]
    offensive = np.asarray(_profanities()([passage for parts in passages for passage in parts]))
    starts = np.cumsum([0, *(len(parts) for parts in passages)])[:-1]
    worst = np.maximum.reduceat(offensive, starts)
    return [
        _not_english(item.response) or Judged(score=float(np.clip(1 - probability, 0, 1)))
        for item, probability in zip(items, worst, strict=True)
    ]


def _passages(text: str) -> list[str]:
    """Return overlapping passages of a text, at least one."""
    starts = range(0, max(1, min(len(text), _PASSAGE * _PASSAGES_MAX)), _PASSAGE)
    return [text[max(0, start - _OVERLAP) : start + _PASSAGE] for start in starts]


def _not_english(text: str) -> Unscored | None:
    """Return why an English model does not score a text; short texts count as English."""
    words = prose(text)
    if letters(words) < _LETTERS_FOR_LANGUAGE:
        return None
    code, confidence = language(words)
    if code == "en" or confidence < 0.5:
        return None
    return Unscored(reason=Reason.UNDECIDED, detail=f"the text is {code}; the model knows English alone")


@cache
def _embedding() -> Any:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    library = importlib.import_module("wordllama")
    root.handlers[:] = handlers  # the library sets up logging when it is imported
    root.setLevel(level)
    assert library.__file__ is not None
    folder = Path(library.__file__).parent  # without it, the library tries to download its weights
    return library.WordLlama.load(cache_dir=folder, disable_download=True)


@cache
def _sentiments() -> Any:
    return importlib.import_module("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer()


@cache
def _profanities() -> Any:
    with warnings.catch_warnings():  # the pickled model names the scikit-learn that made it
        warnings.simplefilter("ignore")
        return importlib.import_module("profanity_check").predict_prob


_MODELS: Final[dict[LocalModel, Callable[[Sequence[JudgedText]], list[Judgement]]]] = {
    "relevance": _relevance,
    "sentiment": _sentiment,
    "profanity": _profanity,
}
