"""Decoder of request bodies: JSON, newline-delimited JSON or MessagePack become events. Pure.

A body is decoded in one call. Only if an item does not fit are the items decoded one by one, to
report which item is wrong and why.
"""

import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from app.core.errors import InvalidInput, TooLarge
from app.feedback import limits
from app.feedback.model import Event


class MediaType(StrEnum):
    """Encoding of a body."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"
    MSGPACK = "application/msgpack"


class Decoded(NamedTuple):
    """Events of a request and their places in it; for all other places, the error of the item.

    `single`: the body was one event, not a list.
    """

    events: list[Event]
    places: Sequence[int]
    malformed: dict[int, str]
    single: bool


_json_event: Final = msgspec.json.Decoder(Event)
_json_events: Final = msgspec.json.Decoder(list[Event])
_json_items: Final = msgspec.json.Decoder(list[msgspec.Raw])
_msgpack_event: Final = msgspec.msgpack.Decoder(Event)
_msgpack_events: Final = msgspec.msgpack.Decoder(list[Event])
_msgpack_items: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])

# One JSON value cannot contain this: it has a comma between two objects.
_SECOND_LINE: Final = re.compile(rb"\}[ \t\r]*\n\s*\{")
_MSGPACK_LISTS: Final = frozenset(range(0x90, 0xA0)) | {0xDC, 0xDD}


def decode(body: bytes, media_type: MediaType) -> Decoded:
    """Decode a body. JSON that consists of several lines of objects is read as NDJSON.

    Raises InvalidInput if the body cannot be read or is empty, TooLarge if it has more than
    `FEEDBACK_BATCH_MAX` events.
    """
    try:
        decoded = _decode(body, media_type)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the body is not {media_type}: {error}", field="body") from error
    except UnicodeError as error:
        raise InvalidInput("the body is not valid UTF-8", field="body") from error
    except RecursionError as error:
        raise InvalidInput("the body is nested too deeply", field="body") from error
    n = len(decoded.places) + len(decoded.malformed)
    if n == 0:
        raise InvalidInput("the body has no events", field="body")
    if n > limits.FEEDBACK_BATCH_MAX:
        raise TooLarge(f"at most {limits.FEEDBACK_BATCH_MAX} events in a request, got {n}", field="body")
    return decoded


def _decode(body: bytes, media_type: MediaType) -> Decoded:
    if media_type is MediaType.MSGPACK:
        if body[:1] and body[0] in _MSGPACK_LISTS:
            return _list(body, _msgpack_events.decode, _msgpack_items.decode, _msgpack_event.decode)
        return _items([body], _msgpack_event.decode, single=True)
    text = body.strip()
    if media_type is MediaType.NDJSON or (text[:1] == b"{" and _SECOND_LINE.search(text)):
        return _list(text, _json_event.decode_lines, _lines, _json_event.decode)
    if text[:1] == b"[":
        return _list(text, _json_events.decode, _json_items.decode, _json_event.decode)
    return _items([text], _json_event.decode, single=True)


def _list(
    body: bytes,
    decode_all: Callable[[bytes], list[Event]],
    split: Callable[[bytes], Sequence[msgspec.Raw | bytes]],
    decode_one: Callable[[msgspec.Raw | bytes], Event],
) -> Decoded:
    try:
        events = decode_all(body)
    except msgspec.ValidationError:
        return _items(split(body), decode_one, single=False)
    return Decoded(events, range(len(events)), {}, single=False)


def _items(
    items: Sequence[msgspec.Raw | bytes], decode_one: Callable[[msgspec.Raw | bytes], Event], *, single: bool
) -> Decoded:
    events: list[Event] = []
    places: list[int] = []
    malformed: dict[int, str] = {}
    for place, item in enumerate(items[: limits.FEEDBACK_BATCH_MAX + 1]):
        try:
            events.append(decode_one(item))
            places.append(place)
        except msgspec.ValidationError as error:
            malformed[place] = str(error)
    return Decoded(events, places, malformed, single)


def _lines(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line.strip()]
