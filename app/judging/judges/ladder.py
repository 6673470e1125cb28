"""The ladder of structured output: how a chat model is asked, and what it has refused so far. Pure.

Servers differ: some refuse `json_schema` or forced tool calls, some ignore them without a word, and
some models refuse `temperature`. A judge starts at the strictest mode and steps down where it must.
It remembers the mode that worked and the parameters that were refused.
"""

from enum import StrEnum
from typing import Any, Final, Self

import msgspec

from app.judging.judges.model import LlmVersion

TOOL: Final = "give_verdict"


class Mode(StrEnum):
    """A way to get a label in a form that can be checked, from strictest to loosest."""

    JSON_SCHEMA = "json_schema"
    TOOL = "tool"
    JSON_OBJECT = "json_object"
    TEXT = "text"


MODES: Final = tuple(Mode)
# Parameters that a refusal replaces by another one; all others are left out from then on.
_REPLACED: Final = {"max_completion_tokens": "max_tokens"}
_OPTIONAL: Final = ("temperature", "reasoning_effort", "max_completion_tokens", "max_tokens")
_OF_MODE: Final = {
    Mode.JSON_SCHEMA: ("response_format", "json_schema", "strict", "schema"),
    Mode.TOOL: ("tools", "tool_choice", "tool", "functions", "function"),
    Mode.JSON_OBJECT: ("response_format", "json_object"),
    Mode.TEXT: (),
}


class Adaptation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Knowledge of a version about its endpoint. `proven` means that the mode gave a label."""

    mode: Mode = Mode.JSON_SCHEMA
    proven: bool = False
    refused: tuple[str, ...] = ()

    def proved(self, mode: Mode) -> Self:
        """Return it with a mode that works."""
        return msgspec.structs.replace(self, mode=mode, proven=True)

    def without(self, parameter: str) -> Self:
        """Return it without a parameter that the endpoint refused."""
        return msgspec.structs.replace(self, refused=tuple(sorted({*self.refused, parameter})))

    def lower(self) -> Self | None:
        """Return it one mode down; None below the last one."""
        below = MODES[MODES.index(self.mode) + 1 :]
        return msgspec.structs.replace(self, mode=below[0], proven=False) if below else None


def parameters(version: LlmVersion, adaptation: Adaptation) -> dict[str, Any]:
    """Return the parameters of a request that an endpoint may refuse."""
    wanted: dict[str, Any] = {
        "temperature": version.temperature,
        "reasoning_effort": version.reasoning_effort,
        "max_completion_tokens": version.tokens_max,
    }
    for refused, instead in _REPLACED.items():
        if refused in adaptation.refused:
            wanted[instead] = wanted[refused]
    return {
        name: value for name, value in wanted.items() if value is not None and name not in adaptation.refused
    }


def names_of_mode(mode: Mode) -> tuple[str, ...]:
    """Return the words by which an error says that it refuses a mode."""
    return _OF_MODE[mode]


def request_body(
    version: LlmVersion, adaptation: Adaptation, message: str, offered: tuple[str, ...]
) -> dict[str, Any]:
    """Return the body of a chat completion that asks for reasons and then one of the labels."""
    schema = {
        "type": "object",
        "properties": {
            "reasons": {"type": "string", "description": "Why, in one to three sentences."},
            "label": {"type": "string", "enum": list(offered)},
        },
        "required": ["reasons", "label"],
        "additionalProperties": False,
    }
    body: dict[str, Any] = {
        "model": version.model,
        "messages": [{"role": "user", "content": message}],
        **parameters(version, adaptation),
    }
    match adaptation.mode:
        case Mode.JSON_SCHEMA:
            described = {"name": TOOL, "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": described}
        case Mode.TOOL:
            function = {"name": TOOL, "description": "Give the verdict.", "parameters": schema}
            body["tools"] = [{"type": "function", "function": function}]
            body["tool_choice"] = {"type": "function", "function": {"name": TOOL}}
        case Mode.JSON_OBJECT:
            body["response_format"] = {"type": "json_object"}
        case Mode.TEXT:
            pass
    return body
