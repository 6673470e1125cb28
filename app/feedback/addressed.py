"""A stream entry of kind `a`: signals by `response_id`. The worker finds the assignments. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec

KIND: Final = "a"


class AddressedSignal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A signal about a response. Times are in microseconds since the epoch.

    `experiment_id` 0: not given. `value` None: the default value of the signal.
    """

    response_id: str
    experiment_id: int
    signal: str
    source: int
    value: float | None
    at_us: int
    received_us: int
    id: str | None = None


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[AddressedSignal])
_raw_decoder: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_one_decoder: Final = msgspec.msgpack.Decoder(AddressedSignal)


def encode(signals: Sequence[AddressedSignal]) -> bytes:
    """Encode the body of the stream entry."""
    return _encoder.encode(signals)


def apart(body: bytes) -> tuple[dict[int, bytes], dict[int, str]]:
    """Return the body of one entry for each signal, by its number, and the errors of the others.

    Raises msgspec.DecodeError if the body is not a list.
    """
    good, errors = {}, {}
    for number, raw in enumerate(_raw_decoder.decode(body)):
        try:
            good[number] = encode([_one_decoder.decode(raw)])
        except (msgspec.MsgspecError, ValueError, UnicodeError, RecursionError) as error:
            errors[number] = str(error)
    return good, errors


def decode(body: bytes) -> list[AddressedSignal]:
    """Decode the body of the stream entry. Raises msgspec.DecodeError."""
    return _decoder.decode(body)
