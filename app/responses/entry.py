"""A stream entry of kind `r`: accepted responses, checked and redacted. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from app.core.packed import Packed
from app.responses import limits
from app.responses.model import Texts

KIND: Final = "r"


class AcceptedResponse(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A response that a server accepted. Times are in microseconds since the epoch.

    `key` has 16 bytes. `assignment` is the body of the assignment id, 48 bytes; empty if the sender
    named the unit. `texts` is an encoded `Texts`.
    """

    key: bytes
    experiment_id: int
    unit_hash: int
    assignment: bytes
    received_us: int
    at_us: int
    texts: bytes
    unit: str | None = None
    response_id: str | None = None
    session_id: str | None = None
    model: str | None = None
    latency_ms: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: float | None = None
    finish_reason: str | None = None
    failed: bool = False


_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(list[AcceptedResponse])
_raw_decoder: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_one_decoder: Final = msgspec.msgpack.Decoder(AcceptedResponse)
_texts_decoder: Final = msgspec.msgpack.Decoder(Texts)


def encode_texts(texts: Texts) -> bytes:
    """Encode the texts of a response."""
    return _encode(texts)


def decode_texts(texts: bytes) -> Texts:
    """Decode the texts of a response. Raises msgspec.DecodeError."""
    return _texts_decoder.decode(texts)


def decode(body: bytes) -> list[AcceptedResponse]:
    """Decode the body of an entry. Raises msgspec.DecodeError."""
    return _decoder.decode(body)


def apart(body: bytes) -> tuple[dict[int, bytes], dict[int, str]]:
    """Return the body of one entry for each response, by its number, and the errors of the others.

    Raises msgspec.DecodeError if the body is not a list.
    """
    good, errors = {}, {}
    for number, raw in enumerate(_raw_decoder.decode(body)):
        try:
            good[number] = _encode([_one_decoder.decode(raw)])
        except (msgspec.MsgspecError, ValueError, UnicodeError, RecursionError) as error:
            errors[number] = str(error)
    return good, errors


def size(response: AcceptedResponse) -> int:
    """Return about how many bytes a response has in an entry."""
    return len(response.texts) + 256


def packed(parts: Sequence[Sequence[AcceptedResponse]]) -> Iterator[Packed]:
    """Yield the responses in entries of about `RESPONSES_ENTRY_BYTES`."""
    together: list[AcceptedResponse] = []
    n_bytes = 0
    for part in parts:
        for response in part:
            together.append(response)
            n_bytes += size(response)
            if n_bytes >= limits.RESPONSES_ENTRY_BYTES or len(together) >= limits.RESPONSES_ENTRY_MAX:
                yield Packed(KIND, len(together), _encode(together))
                together, n_bytes = [], 0
    if together:
        yield Packed(KIND, len(together), _encode(together))
