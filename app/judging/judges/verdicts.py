"""Reading of a chat model's answer. Pure.

A label counts only if it was offered and stands where only the model can put it. That is the label
of the one JSON object that is the whole answer, or the line with the random mark. So no judged text
that the model quotes becomes the label.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from app.judging.judges import limits
from app.judging.judges.failures import Failure
from app.judging.judges.ladder import TOOL, Mode
from app.judging.judges.model import Reason
from app.judging.judges.prompts import VERDICT

_FENCE: Final = re.compile(r"```(?:json)?\s*\n(?P<inside>.*)\n\s*```", re.DOTALL)
_THOUGHTS: Final = ("<think>", "</think>")
_INTEGER_DIGITS_MAX: Final = 20


class Verdict(NamedTuple):
    """The label that a model chose, as it was offered, and why."""

    label: str
    reasons: str


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function = msgspec.field(default_factory=_Function)


class _Message(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Tokens(msgspec.Struct):
    prompt_tokens: Any = None
    completion_tokens: Any = None


class Completion(msgspec.Struct):
    """The parts of a chat completion that a judge reads."""

    choices: list[_Choice]
    usage: _Tokens | None = None

    @property
    def tokens(self) -> tuple[int | None, int | None]:
        """Tokens in and out; None if they are not reported."""
        if self.usage is None:
            return None, None
        return _count(self.usage.prompt_tokens), _count(self.usage.completion_tokens)


def completion(body: bytes) -> Completion | Failure:
    """Read the body of a chat completion."""
    try:
        return msgspec.json.decode(body, type=Completion)
    except (msgspec.DecodeError, RecursionError) as error:
        return Failure(Reason.ANSWER_UNREADABLE, f"not a chat completion: {error}"[: limits.ERROR_LENGTH_MAX])


def verdict(answer: Completion, mode: Mode, offered: Sequence[str], mark: str) -> Verdict | Failure:
    """Return the label that the model chose, or why the answer holds none."""
    if not answer.choices:
        return Failure(Reason.ANSWER_EMPTY, "the answer has no choices")
    choice = answer.choices[0]
    text = _text(choice.message, mode)
    if choice.message.refusal or choice.finish_reason == "content_filter":
        return Failure(Reason.CONTENT_REFUSED, "the model refused to judge")
    if choice.finish_reason == "length":  # a label may be cut, too: 10 to 1
        return Failure(Reason.TRUNCATED, "the answer ended at tokens_max: raise tokens_max")
    if not text.strip():
        return Failure(Reason.ANSWER_EMPTY, "the answer has no text")
    if mode is Mode.TEXT:
        return _from_line(text, offered, mark)
    return _from_json(text, offered)


def _text(message: _Message, mode: Mode) -> str:
    """Return the text that holds the verdict."""
    calls = message.tool_calls or []
    if mode is Mode.TOOL and len(calls) == 1 and calls[0].function.name == TOOL:
        return calls[0].function.arguments or ""
    if isinstance(message.content, list):
        parts = (part.get("text") for part in message.content if part.get("type") == "text")
        return "".join(part for part in parts if isinstance(part, str))
    return message.content or ""


def _from_json(text: str, offered: Sequence[str]) -> Verdict | Failure:
    try:
        fields = json.loads(
            _bare(text), object_pairs_hook=_unique, parse_int=_integer, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        detail = f"not one JSON object: {error}"[: limits.ERROR_LENGTH_MAX]
        return Failure(Reason.ANSWER_UNREADABLE, detail)
    if not isinstance(fields, dict) or fields.keys() != {"reasons", "label"}:
        return Failure(Reason.ANSWER_UNREADABLE, "the JSON must have reasons and label, and nothing else")
    reasons, label = fields["reasons"], fields["label"]
    if not isinstance(reasons, str):
        return Failure(Reason.ANSWER_UNREADABLE, "reasons must be a text")
    if isinstance(label, bool) or not isinstance(label, str | int):
        return Failure(Reason.LABEL_NOT_OFFERED, f"label must be one of {', '.join(offered)}")
    return _chosen(str(label).strip(), reasons, offered)


def _from_line(text: str, offered: Sequence[str], mark: str) -> Verdict | Failure:
    """Read the one line with the mark; it must be the last line that is not blank."""
    lines = _spoken(text).splitlines()
    beginning = f"{VERDICT} {mark}:"
    # Models like to set the line in bold or as code.
    marked = [number for number, line in enumerate(lines) if line.strip(" *`_#>").startswith(beginning)]
    if marked != [len(lines) - 1]:
        detail = "the answer must end with exactly one verdict line"
        return Failure(Reason.LABEL_NOT_OFFERED if not marked else Reason.ANSWER_UNREADABLE, detail)
    label = lines[-1].strip(" *`_#>").removeprefix(beginning).strip(" \"'*`_.")
    return _chosen(label, "\n".join(lines[:-1]).strip(), offered)


def _chosen(label: str, reasons: str, offered: Sequence[str]) -> Verdict | Failure:
    if label not in offered:
        detail = f"label {label[:40]!r} is not one of {', '.join(offered)}"
        return Failure(Reason.LABEL_NOT_OFFERED, detail)
    return Verdict(label, reasons[: limits.REASONS_LENGTH_MAX])


def _spoken(text: str) -> str:
    """Return the answer without the thoughts that some servers leave in front of it."""
    begin, end = _THOUGHTS
    text = text.strip()
    return text.partition(end)[2].strip() if text.startswith(begin) else text


def _bare(text: str) -> str:
    """Return the answer without a code fence around it."""
    spoken = _spoken(text)
    fence = _FENCE.fullmatch(spoken)
    return fence["inside"] if fence else spoken


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _integer(digits: str) -> int:
    if len(digits) > _INTEGER_DIGITS_MAX:
        raise ValueError("a number is too long")
    return int(digits)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _count(tokens: object) -> int | None:
    """Return a number of tokens if it can be one."""
    if isinstance(tokens, bool) or not isinstance(tokens, int):
        return None
    return tokens if 0 <= tokens <= limits.TOKENS_REPORTED_MAX else None
