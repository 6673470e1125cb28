"""A stream entry of kind `s`: the signals of one or several requests, in columns. Format: ARCHITECTURE.md.

Columns, because a thousand events are then a few strings of bytes that numpy reads in place, instead of a
thousand small arrays.
"""

from typing import Final

import msgspec
import numpy as np

KIND: Final = "s"

VALUES: Final = np.dtype("<f8")
TIMES: Final = np.dtype("<i8")


class UnitSignal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A signal by (experiment, unit). `at_us`: microseconds since the epoch."""

    experiment_id: int
    unit_hash: int
    signal: str
    source: int
    value: float
    at_us: int
    id: str | None = None


class SignalsEntry(msgspec.Struct, frozen=True, array_like=True):
    """Signals by assignment id, one column per field and one element per signal; then signals by unit.

    `bodies` holds the 48 bytes of each verified assignment id, `sources` one byte each, `values` binary64 and
    `at_us` signed 64 bits (microseconds since the epoch), both little-endian.
    """

    received_at_ms: int
    bodies: bytes
    signals: list[str]
    sources: bytes
    values: bytes
    at_us: bytes
    ids: list[str | None]
    units: list[UnitSignal] = msgspec.field(default_factory=list)

    @property
    def n(self) -> int:
        """How many events."""
        return len(self.signals) + len(self.units)


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(SignalsEntry)


def encode(entry: SignalsEntry) -> bytes:
    """The body of the stream entry."""
    return _encoder.encode(entry)


def decode(body: bytes) -> SignalsEntry:
    """Read a body back.

    Raises msgspec.DecodeError if it is not one, ValueError if its columns differ in length.
    """
    entry = _decoder.decode(body)
    n = len(entry.signals)
    lengths = {
        len(entry.sources),
        len(entry.ids),
        len(entry.bodies) / 48,
        len(entry.values) / VALUES.itemsize,
        len(entry.at_us) / TIMES.itemsize,
    }
    if lengths != {n}:
        raise ValueError(f"columns of {n} signals have lengths {sorted(lengths)}")
    return entry
