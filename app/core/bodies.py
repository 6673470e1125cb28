"""Decoder of request bodies: JSON, newline-delimited JSON or MessagePack become items. Pure.

A body is decoded in one call. Only if an item does not fit are the items decoded one by one, to
report which item is wrong and why.
"""

import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from app.core.errors import InvalidInput, TooLarge

T = TypeVar("T")
Raw = msgspec.Raw | bytes
Correct = Callable[[Raw, "MediaType"], Raw]
"""Rewrite of an item that does not fit; the item itself if it stays wrong."""


class MediaType(StrEnum):
    """Encoding of a body."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"
    MSGPACK = "application/msgpack"


class Decoded(NamedTuple, Generic[T]):
    """Items of a request and their places in it; for all other places, the error of the item.

    `single`: the body was one item, not a list.
    """

    events: list[T]
    places: Sequence[int]
    malformed: dict[int, str]
    single: bool


# One JSON value cannot contain this: it has a comma between two objects.
_SECOND_LINE: Final = re.compile(rb"\}[ \t\r]*\n\s*\{")
_MSGPACK_LISTS: Final = frozenset(range(0x90, 0xA0)) | {0xDC, 0xDD}
_json_items: Final = msgspec.json.Decoder(list[msgspec.Raw])
_msgpack_items: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])


class BodyDecoder(Generic[T]):
    """Decoder of bodies with one or several items of one type, at most `items_max`.

    `noun` is the word for the items in errors. `correct` rewrites an item that does not fit, for
    other spellings of its fields; it may raise msgspec.ValidationError.
    """

    def __init__(self, kind: type[T], *, noun: str, items_max: int, correct: Correct | None = None) -> None:
        self._json = msgspec.json.Decoder(kind)
        self._json_list = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        self._msgpack = msgspec.msgpack.Decoder(kind)
        self._msgpack_list = msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]
        self._noun = noun
        self._items_max = items_max
        self._correct = correct

    def decode(self, body: bytes, media_type: MediaType) -> Decoded[T]:
        """Decode a body. JSON that consists of several lines of objects is read as NDJSON.

        Raises InvalidInput if the body cannot be read or is empty, TooLarge if it has more than
        `items_max` items.
        """
        try:
            decoded = self._decode(body, media_type)
        except msgspec.DecodeError as error:
            raise InvalidInput(f"the body is not {media_type}: {error}", field="body") from error
        except UnicodeError as error:
            raise InvalidInput("the body is not valid UTF-8", field="body") from error
        except RecursionError as error:
            raise InvalidInput("the body is nested too deeply", field="body") from error
        n = len(decoded.places) + len(decoded.malformed)
        if n == 0:
            raise InvalidInput(f"the body has no {self._noun}", field="body")
        if n > self._items_max:
            raise TooLarge(f"at most {self._items_max} {self._noun} in a request, got {n}", field="body")
        return decoded

    def _decode(self, body: bytes, media_type: MediaType) -> Decoded[T]:
        if media_type is MediaType.MSGPACK:
            decode_one = self._decode_one(self._msgpack.decode, media_type)
            if body[:1] and body[0] in _MSGPACK_LISTS:
                return self._list(body, self._msgpack_list.decode, _msgpack_items.decode, decode_one)
            return self._items([body], decode_one, single=True)
        text = body.strip()
        decode_one = self._decode_one(self._json.decode, MediaType.JSON)
        if media_type is MediaType.NDJSON or (text[:1] == b"{" and _SECOND_LINE.search(text)):
            return self._list(text, self._json.decode_lines, _lines, decode_one)
        if text[:1] == b"[":
            return self._list(text, self._json_list.decode, _json_items.decode, decode_one)
        return self._items([text], decode_one, single=True)

    def _decode_one(self, decode: Callable[[Raw], T], media_type: MediaType) -> Callable[[Raw], T]:
        correct = self._correct
        if correct is None:
            return decode

        def corrected(item: Raw) -> T:
            try:
                return decode(item)
            except msgspec.ValidationError:
                return decode(correct(item, media_type))

        return corrected

    def _list(
        self,
        body: bytes,
        decode_all: Callable[[bytes], list[T]],
        split: Callable[[bytes], Sequence[Raw]],
        decode_one: Callable[[Raw], T],
    ) -> Decoded[T]:
        try:
            items = decode_all(body)
        except msgspec.ValidationError:
            return self._items(split(body), decode_one, single=False)
        return Decoded(items, range(len(items)), {}, single=False)

    def _items(self, raws: Sequence[Raw], decode_one: Callable[[Raw], T], *, single: bool) -> Decoded[T]:
        items: list[T] = []
        places: list[int] = []
        malformed: dict[int, str] = {}
        for place, raw in enumerate(raws[: self._items_max + 1]):
            try:
                items.append(decode_one(raw))
                places.append(place)
            except msgspec.ValidationError as error:
                malformed[place] = str(error)
        return Decoded(items, places, malformed, single)


def _lines(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line.strip()]
