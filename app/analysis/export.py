"""Logged assignments as a file, CSV or Parquet, a page at a time: memory is that of one page. Pure."""

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, Protocol
from uuid import UUID

from app.core.errors import UnprocessableInput

Format = Literal["csv", "parquet"]

MEDIA_TYPES: Final[dict[Format, str]] = {
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
}
OUTCOMES: Final = ("pending", "rewarded", "silent", "censored")
"""By their numbers in the log."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


class Row(NamedTuple):
    """One exposed assignment. `reward` is in [0, 1], null while pending and where silence is censored."""

    assignment: UUID
    unit: str
    variant: str
    propensity: float
    policy_version: int
    epoch: int
    assigned_at: datetime
    outcome: str
    reward: float | None
    context: dict[str, Any] | None


class Writer(Protocol):
    """Turns pages into the bytes of a file: all `page` and `end` return, one after the other."""

    def page(self, rows: Sequence[Row]) -> bytes:
        """The bytes of these rows, the header before the first ones."""

    def end(self) -> bytes:
        """What closes the file."""


def writer(kind: Format, *, exact: bool) -> Writer:
    """A writer of that kind. Raises UnprocessableInput where Parquet's library is not installed."""
    if kind == "csv":
        return CsvWriter(exact=exact)
    return ParquetWriter()


class CsvWriter:
    """RFC 4180 with a header; times in ISO 8601, the context as JSON, null as nothing.

    A spreadsheet runs a text that begins like a formula, and units are what callers sent. Unless `exact`,
    such a text gets an apostrophe before it, which a spreadsheet takes as "this is text".
    """

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self._begun = False

    def page(self, rows: Sequence[Row]) -> bytes:
        """These rows, the names of the columns before the first ones."""
        text = io.StringIO()
        lines = csv.writer(text)
        if not self._begun:
            lines.writerow(Row._fields)
            self._begun = True
        for row in rows:
            cells = row._asdict()
            cells |= {"unit": self._safe(row.unit), "variant": self._safe(row.variant)}
            cells |= {"assigned_at": _iso(row.assigned_at), "context": _json(row.context)}
            lines.writerow(cells.values())
        return text.getvalue().encode()

    def end(self) -> bytes:
        """Nothing closes a CSV file."""
        return b"" if self._begun else self.page(())

    def _safe(self, text: str) -> str:
        return f"'{text}" if not self._exact and text.startswith(_FORMULA) else text


class ParquetWriter:
    """One row group per page. Texts are as they were sent. Needs the extra `parquet` (pyarrow)."""

    def __init__(self) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415 - an extra, and large
            from pyarrow import parquet  # noqa: PLC0415
        except ImportError:
            needed = (
                "Parquet needs pyarrow in the server: install it with the Python that runs the server, "
                "in a clone `.venv/bin/python -m pip install pyarrow`; CSV needs nothing"
            )
            raise UnprocessableInput(needed, field="format") from None
        self._arrow = pa
        self._schema = pa.schema(
            [
                pa.field("assignment", pa.string(), nullable=False),
                pa.field("unit", pa.string(), nullable=False),
                pa.field("variant", pa.string(), nullable=False),
                pa.field("propensity", pa.float64(), nullable=False),
                pa.field("policy_version", pa.int32(), nullable=False),
                pa.field("epoch", pa.int32(), nullable=False),
                pa.field("assigned_at", pa.timestamp("us", tz="UTC"), nullable=False),
                pa.field("outcome", pa.string(), nullable=False),
                pa.field("reward", pa.float64()),
                pa.field("context", pa.string()),
            ]
        )
        self._sink = _Drained()
        self._file = parquet.ParquetWriter(self._sink, self._schema, compression="zstd")

    def page(self, rows: Sequence[Row]) -> bytes:
        """A row group of these rows."""
        if rows:
            texts = [(str(row.assignment), *row[1:-1], _json(row.context)) for row in rows]
            columns = [
                self._arrow.array(column, field.type)
                for column, field in zip(zip(*texts, strict=True), self._schema, strict=True)
            ]
            self._file.write_table(self._arrow.Table.from_arrays(columns, schema=self._schema))
        return self._sink.drain()

    def end(self) -> bytes:
        """The footer, without which the rest is no Parquet file: a file that was cut off cannot be read."""
        self._file.close()
        return self._sink.drain()


class _Drained(io.RawIOBase):
    """A file to write to that forgets what was taken from it."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._position += len(part)
        return len(part)

    def drain(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _json(context: dict[str, Any] | None) -> str | None:
    return None if context is None else json.dumps(context, ensure_ascii=False, separators=(",", ":"))
