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


def encode(exposures: Sequence[Exposure | tuple[bytes, str, dict[str, Any] | None]]) -> bytes:
    """The body of the stream entry. Tuples in the order of `Exposure` are as good, and cheaper to make."""
    return _encoder.encode(exposures)


def decode(body: bytes) -> list[Exposure]:
    """Read a body back. Raises msgspec.DecodeError."""
    return _decoder.decode(body)
