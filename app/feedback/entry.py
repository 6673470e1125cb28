"""A stream entry of kind `s`: signals of one or several requests, in columns (see ARCHITECTURE.md).

numpy reads the columns of a thousand events in place; rows would be a thousand small arrays.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.assignment.assignment_id import BODY, BODY_BYTES

KIND: Final = "s"

VALUES: Final = np.dtype("<f8")
TIMES: Final = np.dtype("<i8")


class UnitSignal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A signal by experiment and unit. `at_us` is in microseconds since the epoch."""

    experiment_id: int
    unit_hash: int
    signal: str
    source: int
    value: float
    at_us: int
    id: str | None = None


class SignalsEntry(msgspec.Struct, frozen=True, array_like=True):
    """Signals by assignment id with one column per field, then signals by unit.

    `bodies` holds the 48 bytes of each verified assignment id, `sources` one byte each, `values`
    binary64 and `at_us` signed 64 bits (microseconds since the epoch), both little-endian.
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
        """Number of events."""
        return len(self.signals) + len(self.units)

    def without(self, refused: NDArray[np.bool_]) -> "SignalsEntry":
        """Return the entry without the `refused` signals by assignment id."""
        kept = np.flatnonzero(~refused)
        chosen = kept.tolist()
        return SignalsEntry(
            self.received_at_ms,
            np.frombuffer(self.bodies, BODY)[kept].tobytes(),
            [self.signals[index] for index in chosen],
            bytes([self.sources[index] for index in chosen]),
            np.frombuffer(self.values, VALUES)[kept].tobytes(),
            np.frombuffer(self.at_us, TIMES)[kept].tobytes(),
            [self.ids[index] for index in chosen],
            self.units,
        )


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(SignalsEntry)
_raw_decoder: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_unit_decoder: Final = msgspec.msgpack.Decoder(UnitSignal)
_COLUMNS: Final = 7  # elements of an entry before the signals by unit


def encode(entry: SignalsEntry) -> bytes:
    """Encode the body of the stream entry."""
    return _encoder.encode(entry)


def decode(body: bytes) -> SignalsEntry:
    """Decode a body.

    Raises msgspec.DecodeError if it is not an entry, ValueError if its columns differ in length.
    """
    entry = _decoder.decode(body)
    n = len(entry.signals)
    lengths = {
        len(entry.sources),
        len(entry.ids),
        len(entry.bodies) / BODY_BYTES,
        len(entry.values) / VALUES.itemsize,
        len(entry.at_us) / TIMES.itemsize,
    }
    if lengths != {n}:
        raise ValueError(f"columns of {n} signals have lengths {sorted(lengths)}")
    return entry


def apart(body: bytes) -> tuple[dict[int, bytes], dict[int, str]]:
    """Return the body of one entry per signal, by its number, and the errors of unreadable signals.

    Raises msgspec.DecodeError or ValueError if the columns cannot be read.
    """
    parts = _raw_decoder.decode(body)
    raw_units = _raw_decoder.decode(parts[_COLUMNS]) if len(parts) > _COLUMNS else []
    columns = decode(_encoder.encode(parts[:_COLUMNS]))
    good = {number: encode(entry) for number, entry in enumerate(_cut(columns, 1))}
    errors = {}
    for number, raw in enumerate(raw_units, len(good)):
        try:
            unit = _unit_decoder.decode(raw)
        except (msgspec.MsgspecError, ValueError, UnicodeError, RecursionError) as error:
            errors[number] = str(error)
        else:
            good[number] = encode(SignalsEntry(columns.received_at_ms, b"", [], b"", b"", b"", [], [unit]))
    return good, errors


def chunks(parts: Sequence[SignalsEntry], events_max: int) -> Iterator[SignalsEntry]:
    """Yield the signals in entries of at most `events_max`: merge small parts, cut large ones."""
    together: list[SignalsEntry] = []
    n = 0
    for part in parts:
        for piece in [part] if part.n <= events_max else _cut(part, events_max):
            if n + piece.n > events_max:
                yield _merge(together)
                together, n = [], 0
            together.append(piece)
            n += piece.n
    if together:
        yield _merge(together)


def _cut(entry: SignalsEntry, size: int) -> Iterator[SignalsEntry]:
    for start in range(0, len(entry.signals), size):
        end = start + size
        yield SignalsEntry(
            entry.received_at_ms,
            entry.bodies[start * BODY_BYTES : end * BODY_BYTES],
            entry.signals[start:end],
            entry.sources[start:end],
            entry.values[start * VALUES.itemsize : end * VALUES.itemsize],
            entry.at_us[start * TIMES.itemsize : end * TIMES.itemsize],
            entry.ids[start:end],
        )
    for start in range(0, len(entry.units), size):
        yield SignalsEntry(
            entry.received_at_ms, b"", [], b"", b"", b"", [], entry.units[start : start + size]
        )


def _merge(parts: Sequence[SignalsEntry]) -> SignalsEntry:
    if len(parts) == 1:
        return parts[0]
    return SignalsEntry(
        max(part.received_at_ms for part in parts),
        b"".join(part.bodies for part in parts),
        list(chain.from_iterable(part.signals for part in parts)),
        b"".join(part.sources for part in parts),
        b"".join(part.values for part in parts),
        b"".join(part.at_us for part in parts),
        list(chain.from_iterable(part.ids for part in parts)),
        list(chain.from_iterable(part.units for part in parts)),
    )
