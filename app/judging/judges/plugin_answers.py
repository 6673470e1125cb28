"""Answers of plugins. Pure."""

import math
from typing import Any

import msgspec

from app.judging.judges import limits
from app.judging.judges.failures import Failure
from app.judging.judges.labels import LabelSet
from app.judging.judges.model import Judged, JudgedText, Reason
from app.judging.judges.templates import readable


class PluginAnswer(msgspec.Struct, forbid_unknown_fields=True):
    """A score in [0, 1], or a label of the version, or why there is none; the last wins."""

    score: float | None = None
    label: int | None = None
    reasons: str = ""
    unscored: str | None = None


def request_body(item: JudgedText) -> bytes:
    """Return what an HTTP plugin gets."""
    return msgspec.json.encode(
        {
            "response_key": item.response_key,
            "prompt": None if item.prompt is None else readable(item.prompt),
            "response": readable(item.response),
            "metadata": item.metadata,
            "model": item.model,
        }
    )


def decoded(body: bytes, labels: LabelSet | None) -> Judged | Failure:
    """Read the answer of an HTTP plugin."""
    try:
        answer = msgspec.json.decode(body, type=PluginAnswer)
    except (msgspec.DecodeError, RecursionError) as error:
        return Failure(Reason.ANSWER_UNREADABLE, str(error)[: limits.ERROR_LENGTH_MAX])
    return judged(answer, labels)


def returned(value: Any, labels: LabelSet | None) -> Judged | Failure:
    """Read what a function returned: a number, None, or the fields of a `PluginAnswer`."""
    if value is None:
        return Failure(Reason.UNDECIDED, "the function returned None")
    if isinstance(value, int | float):
        return judged(PluginAnswer(score=float(value)), labels)
    try:
        return judged(msgspec.convert(value, PluginAnswer), labels)
    except msgspec.ValidationError as error:
        detail = f"the function returned {type(value).__name__}: {error}"
        return Failure(Reason.ANSWER_UNREADABLE, detail[: limits.ERROR_LENGTH_MAX])


def judged(answer: PluginAnswer, labels: LabelSet | None) -> Judged | Failure:
    """Check an answer."""
    reasons = answer.reasons[: limits.REASONS_LENGTH_MAX]
    if answer.unscored is not None:
        return Failure(Reason.UNDECIDED, answer.unscored[: limits.ERROR_LENGTH_MAX])
    if answer.label is not None:
        if labels is None or answer.label not in labels.numbers:
            offered = "none" if labels is None else ", ".join(map(str, labels.numbers))
            return Failure(Reason.LABEL_NOT_OFFERED, f"label {answer.label}; the version has {offered}")
        return Judged(score=labels.score(answer.label), label=answer.label, reasons=reasons)
    if answer.score is None or not math.isfinite(answer.score) or not 0 <= answer.score <= 1:
        return Failure(Reason.ANSWER_UNREADABLE, f"score must be between 0 and 1; got {answer.score}")
    label = None if labels is None else labels.nearest(answer.score)
    return Judged(score=answer.score, label=label, reasons=reasons)
