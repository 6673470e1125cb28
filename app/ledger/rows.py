"""PostgreSQL's binary formats: rows for COPY, and arrays as columns of a result. Pure.

numpy writes a column of fixed width for all rows at once; only texts are visited one by one.
"""

from collections.abc import Sequence
from itertools import chain
from struct import Struct
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_ARRAY_HEADER_BYTES: Final = (
    20  # dimensions, nulls, element type, then length and first index of the one dimension
)
_EPOCH_US: Final = 946_684_800_000_000  # PostgreSQL counts from 2000
_length: Final = Struct(">i").pack

NULL: Final = b"\xff\xff\xff\xff"


class Rows(NamedTuple):
    """`n` rows in binary COPY format, header and trailer included."""

    n: int
    data: bytes


def rows(n: int, *texts: Sequence[bytes], **columns: tuple[str, Any]) -> Rows:
    """Encode `n` rows: columns of fixed width, given as (numpy type, values), then encoded texts."""
    layout: list[tuple[str, str]] = [("n_columns", ">i2")]
    for name, (kind, _) in columns.items():
        layout += [(f"{name}_length", ">i4"), (name, kind)]
    fixed = np.empty(n, np.dtype(layout))
    fixed["n_columns"] = len(columns) + len(texts)
    for name, (_, values) in columns.items():
        fixed[f"{name}_length"] = fixed.dtype[name].itemsize
        fixed[name] = values
    if not texts:
        return Rows(n, b"".join([_HEADER, fixed.tobytes(), _TRAILER]))
    parts: list[bytes] = fixed.view(f"V{fixed.dtype.itemsize}").tolist()
    body = chain.from_iterable(zip(parts, *texts, strict=True))
    return Rows(n, b"".join([_HEADER, *body, _TRAILER]))


def text(value: str) -> bytes:
    """Encode a value of type text, behind its length."""
    return raw(value.encode())


def raw(value: bytes) -> bytes:
    """Encode a value of type bytea, behind its length."""
    return _length(len(value)) + value


def json(value: Any) -> bytes:
    """Encode a value of type jsonb, behind its length."""
    return raw(b"\x01" + msgspec.json.encode(value))  # 1 is the version of the binary format


def timestamps(us: NDArray[np.int64]) -> tuple[str, NDArray[np.int64]]:
    """Return a column of type timestamptz from microseconds since the Unix epoch."""
    return ">i8", us - _EPOCH_US


def array(data: bytes | None, kind: str) -> NDArray[Any]:
    """Decode an array of values of fixed width, none of them null. A null array becomes an empty one."""
    if data is None:
        return np.empty(0, kind)
    element = np.dtype([("length", ">i4"), ("value", kind)])
    return np.frombuffer(data, element, offset=_ARRAY_HEADER_BYTES)["value"]


def unix_us(timestamps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Convert PostgreSQL's timestamps to microseconds since the Unix epoch."""
    return timestamps.astype(np.int64) + _EPOCH_US
