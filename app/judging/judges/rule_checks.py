"""Verdict of each rule on a response. Pure."""

import re
from typing import Final, NamedTuple, assert_never

import msgspec

from app.core.personal_data import occurrences
from app.judging.judges import limits
from app.judging.judges.labels import PASS_OR_FAIL
from app.judging.judges.languages import language, letters, prose
from app.judging.judges.model import Judged, JudgedText, Judgement, Reason, Unscored
from app.judging.judges.refusal_patterns import refusal
from app.judging.judges.rules import (
    Length,
    NoPersonalData,
    NoRefusal,
    NoRepetition,
    NotEmpty,
    Rule,
    SpokenLanguage,
    ValidJson,
)

# Any character but white space and those that print nothing.
_VISIBLE: Final = re.compile("[^\\s\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]")
# Scripts without spaces between words count each character as a word.
_WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0e7f]|\w+")
_FENCE: Final = re.compile(r"\A\s*```[\w-]*\n(?P<inside>.*?)\n?```\s*\Z", re.DOTALL)


class Finding(NamedTuple):
    """Verdict of a rule, with its reasons."""

    passes: bool
    reasons: str


def judge_by_rule(rule: Rule, item: JudgedText) -> Judgement:
    """Return 1 for a response that passes the rule and 0 for one that fails it."""
    finding = _language(rule, item) if isinstance(rule, SpokenLanguage) else _finding(rule, item.response)
    if isinstance(finding, Unscored):
        return finding
    label = int(finding.passes)
    return Judged(score=PASS_OR_FAIL.score(label), label=label, reasons=finding.reasons)


def _finding(
    rule: NotEmpty | NoRefusal | Length | ValidJson | NoRepetition | NoPersonalData, text: str
) -> Finding:
    match rule:
        case NotEmpty():
            visible = _VISIBLE.search(text) is not None
            return Finding(visible, "" if visible else "the response has no visible character")
        case NoRefusal():
            words = refusal(text)
            return Finding(words is None, "" if words is None else f"begins with a refusal: {words!r}")
        case Length():
            return _length(rule, text)
        case ValidJson():
            return _json(rule, text)
        case NoRepetition():
            return _repetition(rule, text)
        case NoPersonalData():
            kinds = dict.fromkeys(place.kind for place in occurrences(text, rule.kinds))
            return Finding(not kinds, f"holds {', '.join(kinds)}" if kinds else "")
        case _:
            assert_never(rule)


def _length(rule: Length, text: str) -> Finding:
    characters = len(text.strip())
    longest = limits.TEXT_LENGTH_MAX if rule.characters_max is None else rule.characters_max
    if characters < rule.characters_min:
        return Finding(
            passes=False, reasons=f"{characters} characters; at least {rule.characters_min} are required"
        )
    if characters > longest:
        return Finding(passes=False, reasons=f"{characters} characters; at most {longest} are allowed")
    return Finding(passes=True, reasons=f"{characters} characters")


def _json(rule: ValidJson, text: str) -> Finding:
    if rule.fence and (fence := _FENCE.match(text)):
        text = fence["inside"]
    try:
        msgspec.json.decode(text.encode("utf-8", "surrogatepass"))
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        return Finding(passes=False, reasons=f"not valid JSON: {error}"[: limits.ERROR_LENGTH_MAX])
    return Finding(passes=True, reasons="")


def _repetition(rule: NoRepetition, text: str) -> Finding:
    words = _WORD.findall(text[: limits.RULE_LENGTH].casefold())
    if len(words) < max(rule.words_min, rule.run_words):
        return Finding(passes=True, reasons=f"{len(words)} words")
    runs = list(zip(*(words[offset:] for offset in range(rule.run_words)), strict=False))
    share = 1 - len(set(runs)) / len(runs)
    return Finding(share <= rule.share_max, f"{share:.0%} of the runs of {rule.run_words} words are repeats")


def _language(rule: SpokenLanguage, item: JudgedText) -> Finding | Unscored:
    spoken = _spoken(rule, item.response, "response")
    if isinstance(spoken, Unscored):
        return spoken
    if rule.languages:
        return Finding(spoken in rule.languages, f"{spoken}; wanted {', '.join(rule.languages)}")
    if item.prompt is None:
        return Unscored(reason=Reason.PROMPT_MISSING, detail="the language of the prompt is not known")
    asked = _spoken(rule, item.prompt, "prompt")
    if isinstance(asked, Unscored):
        return asked
    return Finding(spoken == asked, f"{spoken}; the prompt is {asked}")


def _spoken(rule: SpokenLanguage, text: str, name: str) -> str | Unscored:
    """Return the language of a text, if it is long enough and its language is sure enough."""
    words = prose(text)
    if (count := letters(words)) < rule.letters_min:
        detail = f"{name}: {count} letters; a language needs {rule.letters_min}"
        return Unscored(reason=Reason.TOO_SHORT, detail=detail)
    code, confidence = language(words)
    if confidence < rule.confidence_min:
        detail = f"{name}: {code} with probability {confidence:.2f}; {rule.confidence_min:g} is required"
        return Unscored(reason=Reason.UNDECIDED, detail=detail)
    return code
