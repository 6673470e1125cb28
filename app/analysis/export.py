"""Logged assignments as a CSV or Parquet file, one page in memory at a time. Pure."""

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
"""Outcomes by their numbers in the log."""

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
    """A writer of a file: its bytes are the results of all calls of `page` and `end` in order."""

    def page(self, rows: Sequence[Row]) -> bytes:
        """Return the bytes of these rows, with the header before the first ones."""

    def end(self) -> bytes:
        """Return the end of the file."""


def writer(kind: Format, *, exact: bool) -> Writer:
    """Return a writer. Raises UnprocessableInput if Parquet's library is not installed."""
    if kind == "csv":
        return CsvWriter(exact=exact)
    return ParquetWriter()


class CsvWriter:
    """A writer of RFC 4180 with a header: times in ISO 8601, the context as JSON, null as an empty field.

    A spreadsheet runs a text that begins like a formula, and units come from callers. Unless `exact`, an
    apostrophe before the text marks it as text.
    """

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self._begun = False

    def page(self, rows: Sequence[Row]) -> bytes:
        """Return these rows, with the names of the columns before the first ones."""
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
        """Return the header of a file without rows, else nothing."""
        return b"" if self._begun else self.page(())

    def _safe(self, text: str) -> str:
        return f"'{text}" if not self._exact and text.startswith(_FORMULA) else text


class ParquetWriter:
    """A writer with one row group per page and unchanged texts. It needs the extra `parquet` (pyarrow)."""

    def __init__(self) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415 - an extra, and large
            from pyarrow import parquet  # noqa: PLC0415
        except ImportError:
            needed = (
                "Parquet needs pyarrow in the server; install it with the Python that runs the server, "
                "in a clone `.venv/bin/python -m pip install pyarrow`, or use CSV"
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
        """Return a row group of these rows."""
        if rows:
            texts = [(str(row.assignment), *row[1:-1], _json(row.context)) for row in rows]
            columns = [
                self._arrow.array(column, field.type)
                for column, field in zip(zip(*texts, strict=True), self._schema, strict=True)
            ]
            self._file.write_table(self._arrow.Table.from_arrays(columns, schema=self._schema))
        return self._sink.drain()

    def end(self) -> bytes:
        """Return the footer. Without it a file is not valid, so a truncated file cannot be read."""
        self._file.close()
        return self._sink.drain()


class _Drained(io.RawIOBase):
    """A file that forgets the bytes that were taken from it."""

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
