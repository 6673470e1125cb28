"""Logged assignments as a CSV, JSONL or Parquet file, one page in memory at a time. Pure."""

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, Protocol
from uuid import UUID

import msgspec

from app.analysis.columns import Column
from app.core.errors import UnprocessableInput

Format = Literal["csv", "jsonl", "parquet"]

MEDIA_TYPES: Final[dict[Format, str]] = {
    "csv": "text/csv; charset=utf-8; header=present",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
OUTCOMES: Final = ("pending", "rewarded", "silent", "censored")
"""Outcomes by their numbers in the log."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


class Row(NamedTuple):
    """One exposed assignment. `reward` is in [0, 1], null while pending and where silence is censored.

    `more` has the values of the further columns, in their order.
    """

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
    more: tuple[Any, ...] = ()


BASE: Final = Row._fields[:-1]
"""Names of the columns that every export has."""


class Writer(Protocol):
    """A writer of a file: its bytes are the results of all calls of `page` and `end` in order."""

    def page(self, rows: Sequence[Row]) -> bytes:
        """Return the bytes of these rows, with the header before the first ones."""

    def end(self) -> bytes:
        """Return the end of the file."""


def writer(kind: Format, *, exact: bool, more: Sequence[Column] = ()) -> Writer:
    """Return a writer with columns of every assignment, and `more` columns.

    Raises UnprocessableInput if Parquet's library is not installed.
    """
    match kind:
        case "csv":
            return CsvWriter(exact=exact, more=more)
        case "jsonl":
            return JsonWriter(more)
        case "parquet":
            return ParquetWriter(more)


class CsvWriter:
    """A writer of RFC 4180 with a header: times in ISO 8601, the context as JSON, null as an empty field.

    A spreadsheet runs a text that begins like a formula, and callers send units and contexts. Unless
    `exact`, an apostrophe before the text marks it as text.
    """

    def __init__(self, *, exact: bool, more: Sequence[Column] = ()) -> None:
        self._exact = exact
        self._begun = False
        self._names = [*BASE, *(column.name for column in more)]

    def page(self, rows: Sequence[Row]) -> bytes:
        """Return these rows, with the names of the columns before the first ones."""
        text = io.StringIO()
        lines = csv.writer(text)
        if not self._begun:
            lines.writerow(self._safe(name) for name in self._names)
            self._begun = True
        for row in rows:
            cells = row._asdict()
            cells |= {"unit": self._safe(row.unit), "variant": self._safe(row.variant)}
            cells |= {"assigned_at": _iso(row.assigned_at), "context": _json(row.context)}
            del cells["more"]
            lines.writerow([*cells.values(), *map(self._cell, row.more)])
        return text.getvalue().encode()

    def end(self) -> bytes:
        """Return the header of a file without rows, else nothing."""
        return b"" if self._begun else self.page(())

    def _cell(self, value: Any) -> Any:
        if isinstance(value, bool):
            return "true" if value else "false"
        return self._safe(value) if isinstance(value, str) else value

    def _safe(self, text: str) -> str:
        return f"'{text}" if not self._exact and text.startswith(_FORMULA) else text


class JsonWriter:
    """A writer of one JSON object per line: values keep their types, and the context is an object."""

    def __init__(self, more: Sequence[Column] = ()) -> None:
        self._names = [*BASE, *(column.name for column in more)]

    def page(self, rows: Sequence[Row]) -> bytes:
        """Return a line for each row."""
        lines = []
        for row in rows:
            values = (*row[:-1], *row.more)
            lines.append(msgspec.json.encode(dict(zip(self._names, values, strict=True))))
        return b"".join(line + b"\n" for line in lines)

    def end(self) -> bytes:
        """Return nothing: a file of lines has no end."""
        return b""


class ParquetWriter:
    """A writer with one row group per page and unchanged texts."""

    def __init__(self, more: Sequence[Column] = ()) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415 - it takes long to load
            from pyarrow import parquet  # noqa: PLC0415
        except ImportError:
            needed = (
                "Parquet needs pyarrow, which this server was installed without; install it with the "
                "Python that runs the server, `python -m pip install pyarrow`, or use csv or jsonl"
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
                *(pa.field(column.name, _arrow_type(pa, column)) for column in more),
            ]
        )
        self._sink = _Drained()
        self._file = parquet.ParquetWriter(self._sink, self._schema, compression="zstd")

    def page(self, rows: Sequence[Row]) -> bytes:
        """Return a row group of these rows."""
        if rows:
            texts = [(str(row.assignment), *row[1:-2], _json(row.context), *row.more) for row in rows]
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


def _arrow_type(arrow: Any, column: Column) -> Any:
    """Return the type of a column in Arrow."""
    match column.kind:
        case "number":
            return arrow.float64()
        case "boolean":
            return arrow.bool_()
        case "text":
            return arrow.string()


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
