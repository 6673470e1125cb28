"""A stream entry of kind `x`: the exposures of one group commit. Format: ARCHITECTURE.md."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

KIND: Final = "x"


class Exposure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An assignment that was answered: the body of its id (48 bytes), its unit, its context."""

    body: bytes
    unit: str
    context: dict[str, Any] | None = None


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Exposure])
_raw_decoder: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])


def encode(exposures: Sequence[Exposure | tuple[bytes, str, dict[str, Any] | None]]) -> bytes:
    """The body of the stream entry. Tuples in the order of `Exposure` are as good, and cheaper to make."""
    return _encoder.encode(exposures)


def apart(body: bytes) -> list[bytes]:
    """The body of one entry per exposure, readable or not. Raises msgspec.DecodeError if it is not a list."""
    return [_encoder.encode([exposure]) for exposure in _raw_decoder.decode(body)]


def decode(body: bytes) -> list[Exposure]:
    """Read a body back. Raises msgspec.DecodeError."""
    return _decoder.decode(body)
