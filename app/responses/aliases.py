"""OpenTelemetry's GenAI attribute names, as other names of the fields of a response. Pure.

Source: semantic conventions for generative AI, v1.41 (gen_ai.input.messages and others, status
"development"), and the names of v1.27 that many instrumentations still send. Span attributes carry
messages as JSON text, events as JSON; both are read.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from app.core.bodies import MediaType, Raw

_FIELDS: Final = {
    "gen_ai.response.id": "response_id",
    "gen_ai.conversation.id": "session_id",
    "gen_ai.input.messages": "prompt",
    "gen_ai.prompt": "prompt",
    "gen_ai.output.messages": "response",
    "gen_ai.completion": "response",
    "gen_ai.response.model": "model",
    "gen_ai.request.model": "model",
    "gen_ai.usage.input_tokens": "tokens_in",
    "gen_ai.usage.prompt_tokens": "tokens_in",
    "gen_ai.usage.output_tokens": "tokens_out",
    "gen_ai.usage.completion_tokens": "tokens_out",
    "gen_ai.response.finish_reasons": "finish_reason",
    "gen_ai.client.operation.duration": "latency_ms",
    "error.type": "error",
}
"""Field of each attribute. If two attributes give one field, the first in this list counts."""

_PREFIX: Final = "gen_ai."
_SYSTEM: Final = "gen_ai.system_instructions"
_MS_PER_S: Final = 1_000
_decoders: Final[dict[MediaType, Any]] = {
    MediaType.JSON: msgspec.json.Decoder(),
    MediaType.MSGPACK: msgspec.msgpack.Decoder(),
}
_encoders: Final[dict[MediaType, Any]] = {
    MediaType.JSON: msgspec.json.Encoder(),
    MediaType.MSGPACK: msgspec.msgpack.Encoder(),
}


def correct(item: Raw, media_type: MediaType) -> Raw:
    """Return an item with our names instead of OpenTelemetry's; other items as they are.

    Raises msgspec.ValidationError if one field has two different values.
    """
    fields = _decoders[media_type].decode(item)
    if not isinstance(fields, dict) or not any(
        isinstance(name, str) and (name in _FIELDS or name.startswith(_PREFIX)) for name in fields
    ):
        return item
    corrected: bytes = _encoders[media_type].encode(renamed(fields))
    return corrected


def renamed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes under our names. Other `gen_ai.` attributes become metadata."""
    fields = {name: value for name, value in attributes.items() if not _ours(name)}
    others = {
        name: value
        for name, value in attributes.items()
        if _ours(name) and name not in _FIELDS and name != _SYSTEM
    }
    given = dict(fields)
    for attribute, name in _FIELDS.items():
        if attribute not in attributes:
            continue
        value = _value(name, attributes[attribute])
        if name in given and given[name] != value:
            raise msgspec.ValidationError(
                f"give either `{name}` or `{attribute}`, or the same value - at `$.{name}`"
            )
        fields.setdefault(name, value)
    if _SYSTEM in attributes:
        system = {"role": "system", "content": _parsed(attributes[_SYSTEM])}
        prompt = fields.get("prompt")
        messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        fields["prompt"] = [system, *(messages if prompt is not None else ())]
    if "finish_reason" not in fields and (reason := _finish_reason(attributes)):
        fields["finish_reason"] = reason
    if others:
        metadata = fields.get("metadata")
        fields["metadata"] = others | (metadata if isinstance(metadata, dict) else {})
    return fields


def _ours(name: str) -> bool:
    return name in _FIELDS or name.startswith(_PREFIX)


def _value(name: str, value: Any) -> Any:
    match name:
        case "prompt":
            return _parsed(value)
        case "response":
            messages = _parsed(value)
            return value if messages is value and isinstance(value, str) else as_text(messages, roles=False)
        case "finish_reason" if isinstance(value, list):
            return value[0] if value else None
        case "latency_ms" if isinstance(value, int | float):
            return value * _MS_PER_S
        case _:
            return value


def _finish_reason(attributes: Mapping[str, Any]) -> str | None:
    """Return the finish reason of the first output message that has one."""
    messages = _parsed(attributes.get("gen_ai.output.messages"))
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and isinstance(message.get("finish_reason"), str):
            return str(message["finish_reason"])
    return None


def _parsed(value: Any) -> Any:
    """Return the list in a JSON text; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return value


def as_text(messages: Any, *, roles: bool = True) -> str:
    """Return messages as plain text, one paragraph each; what is not text, as JSON.

    `roles`: each paragraph begins with the role of its author.
    """
    if isinstance(messages, str):
        return messages
    if isinstance(messages, list):
        return "\n\n".join(as_text(message, roles=roles) for message in messages)
    if isinstance(messages, dict):
        role = messages.get("role") if roles else None
        content = messages.get("parts", messages.get("content", messages.get("text")))
        if content is not None and set(messages) <= _TEXTUAL:
            text = as_text(content, roles=False)
            return f"{role}: {text}" if isinstance(role, str) else text
    return msgspec.json.encode(messages).decode()


_TEXTUAL: Final = {"role", "parts", "content", "text", "type", "name", "finish_reason"}
