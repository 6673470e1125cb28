"""A stream entry of kind `x`: the exposures of one group commit. Format: ARCHITECTURE.md."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

KIND: Final = "x"


class Exposure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An assignment that was answered: the body of its id (48 bytes), its unit and context."""

    body: bytes
    unit: str
    context: dict[str, Any] | None = None


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Exposure])
_raw_decoder: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])


def encode(exposures: Sequence[Exposure | tuple[bytes, str, dict[str, Any] | None]]) -> bytes:
    """Encode the body of a stream entry. Tuples in the order of `Exposure` are cheaper to make."""
    return _encoder.encode(exposures)


def apart(body: bytes) -> list[bytes]:
    """Split a body into one per exposure, readable or not. Raises DecodeError without a list."""
    return [_encoder.encode([exposure]) for exposure in _raw_decoder.decode(body)]


def decode(body: bytes) -> list[Exposure]:
    """Decode a body. Raises msgspec.DecodeError."""
    return _decoder.decode(body)
