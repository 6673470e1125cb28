"""Requests and answers of `POST /v1/systemone`. Pure.

The judged texts travel in `state`, apart from the question, so no text can become an instruction. A
distribution that contradicts itself is refused, never repaired: it must hold exactly the options
asked for, each in [0, 1], with the sum 1, and agree with the answer's own `choice` or `score`.

Source: the public System One API (questions `noul`, `choice`, `score`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from app.judging.judges import limits
from app.judging.judges.failures import Failure
from app.judging.judges.model import DecisionVersion, JudgedText, Reason
from app.judging.judges.prompts import FIRST, SECOND, TIE
from app.judging.judges.templates import readable

QUESTION: Final = "verdict"
_TOLERANCE: Final = 0.02  # answers are rounded

_PAIR: Final = {
    FIRST: "the first response meets the criterion better",
    SECOND: "the second response meets the criterion better",
    TIE: "neither response meets the criterion better",
}


class Answered(NamedTuple):
    """Probabilities of the options, in their order, and the tokens that were reported."""

    probabilities: tuple[float, ...]
    tokens_in: int | None
    tokens_out: int | None


class _Answer(msgspec.Struct):
    type: str
    noul: float | None = None
    choice: str | None = None
    score: float | None = None
    probabilities: dict[str, float] | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Body(msgspec.Struct):
    answers: dict[str, _Answer]
    usage: _Usage | None = None


def url(base_url: str) -> str:
    """Return the address of the call; `base_url` may end before or after `/v1`."""
    base = base_url.rstrip("/")
    return f"{base}/systemone" if base.endswith("/v1") else f"{base}/v1/systemone"


def question(version: DecisionVersion) -> dict[str, Any]:
    """Return the question about one response."""
    asked: dict[str, Any] = {"type": version.question, "instructions": version.statement}
    meanings = version.label_set.meanings
    if version.question == "score":
        asked["criteria"] = list(meanings)
    elif version.question == "choice":
        asked["criteria"] = dict(zip(options(version), meanings, strict=True))
    return asked


def options(version: DecisionVersion) -> tuple[str, ...]:
    """Return the keys of the options, from worst to best; a `score` counts its levels from 0."""
    first = 0 if version.question == "score" else version.label_set.lowest
    return tuple(str(first + place) for place in range(len(version.label_set.meanings)))


def pair_question(version: DecisionVersion) -> dict[str, Any]:
    """Return the question that asks which of two responses is better."""
    instructions = f"Which response meets this criterion better? {version.statement}"
    return {"type": "choice", "instructions": instructions, "criteria": _PAIR}


PAIR_OPTIONS: Final = tuple(_PAIR)


def state(item: JudgedText) -> dict[str, str]:
    """Return the texts that a question is about."""
    prompt = {} if item.prompt is None else {"prompt": item.prompt}
    return {**prompt, "response": item.response}


def pair_state(first: JudgedText, second: JudgedText) -> dict[str, str]:
    """Return the prompt and two responses, without their origin."""
    prompt = {} if first.prompt is None else {"prompt": first.prompt}
    return {**prompt, FIRST: first.response, SECOND: second.response}


def request_body(version: DecisionVersion, texts: Mapping[str, str], asked: Mapping[str, Any]) -> bytes:
    """Return the body of a call with one question."""
    encodable = {name: readable(text) for name, text in texts.items()}
    body = {"model": version.model, "state": encodable, "questions": {QUESTION: asked}}
    return msgspec.json.encode(body)


def answered(body: bytes, kind: str, keys: Sequence[str]) -> Answered | Failure:
    """Read the answer to a question of this kind with these options, from worst to best."""
    try:
        decoded = msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, RecursionError) as error:
        return Failure(Reason.ANSWER_UNREADABLE, f"not an answer: {error}"[: limits.ERROR_LENGTH_MAX])
    answer = decoded.answers.get(QUESTION)
    if answer is None or answer.type != kind:
        return Failure(Reason.ANSWER_UNREADABLE, f"the answer has no {kind} called {QUESTION}")
    probabilities = _noul(answer) if kind == "noul" else _distribution(answer, keys)
    if isinstance(probabilities, Failure):
        return probabilities
    usage = decoded.usage or _Usage()
    return Answered(probabilities, _count(usage.input_tokens), _count(usage.output_tokens))


def expected_place(probabilities: Sequence[float]) -> float:
    """Return the expected place between worst (0) and best (1).

    Worked by hand: (0.1, 0.3, 0.6) is (0.3 · 1 + 0.6 · 2) / 2 = 0.75.
    """
    place = sum(place * probability for place, probability in enumerate(probabilities))
    return min(1.0, place / (len(probabilities) - 1))


def _noul(answer: _Answer) -> tuple[float, ...] | Failure:
    if answer.noul is None or not 0 <= answer.noul <= 1:
        return _invalid(f"noul must be between 0 and 1; got {answer.noul}")
    return (1 - answer.noul, answer.noul)


def _distribution(answer: _Answer, keys: Sequence[str]) -> tuple[float, ...] | Failure:
    given = answer.probabilities
    if given is None or given.keys() != set(keys):
        return _invalid(f"probabilities must be those of {', '.join(keys)}")
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in given.values()):
        return _invalid("probabilities must be between 0 and 1")
    total = sum(given.values())
    if abs(total - 1) > _TOLERANCE:
        return _invalid(f"probabilities must sum to 1; they sum to {total:.3f}")
    probabilities = tuple(given[key] / total for key in keys)
    if answer.type == "choice":
        chosen = given.get(answer.choice or "")
        if chosen is None or chosen < max(given.values()) - _TOLERANCE:
            return _invalid(f"the choice {answer.choice!r} is not the most probable option")
    elif answer.score is not None:
        expected = expected_place(probabilities) * (len(keys) - 1)
        if not abs(answer.score - expected) <= _TOLERANCE * len(keys):
            return _invalid(f"the score {answer.score} is not the expected level {expected:.3f}")
    return probabilities


def _invalid(detail: str) -> Failure:
    return Failure(Reason.PROBABILITIES_INVALID, detail[: limits.ERROR_LENGTH_MAX])


def _count(tokens: int | None) -> int | None:
    return tokens if tokens is not None and 0 <= tokens <= limits.TOKENS_REPORTED_MAX else None
