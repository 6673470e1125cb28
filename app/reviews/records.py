"""Reviews as CSV and JSON Lines: labels made elsewhere, answers, and items. Pure."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec

from app.core.errors import InvalidInput, TooLarge
from app.core.text import unstorable
from app.reviews import limits
from app.reviews.model import Comment, Digit, Seconds

Format = Literal["csv", "jsonl"]
MEDIA_TYPES: Final[dict[Format, str]] = {
    "csv": "text/csv; charset=utf-8; header=present",
    "jsonl": "application/x-ndjson",
}
ANSWER_FIELDS: Final = (
    *("item", "response_id", "response_key", "assignment", "variant", "epoch", "segment", "queue"),
    *("inclusion_probability", "reviewer", "name", "revision", "label", "word", "reason", "comment"),
    *("seconds", "at"),
)
REQUIRED: Final = ("response_id", "label", "reviewer")
ITEM_FIELDS: Final = ("item", "response_id", "prompt", "response", "reviewer", "label", "comment")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
_TEXTS: Final = frozenset(
    {
        "response_id",
        "variant",
        "segment",
        "reviewer",
        "name",
        "word",
        "reason",
        "comment",
        "prompt",
        "response",
    }
)


class ImportedLabel(msgspec.Struct, frozen=True, kw_only=True):
    """A label made elsewhere, about the response with this id. Other fields are ignored."""

    response_id: Annotated[str, msgspec.Meta(min_length=1)]
    label: Digit
    reviewer: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    comment: Comment = ""
    seconds: Seconds | None = None
    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class ImportLine(msgspec.Struct, frozen=True):
    """A line of a file: its label, or why it has none."""

    line: int
    label: ImportedLabel | None = None
    field: str = ""
    reason: str = ""


def read_lines(body: bytes, kind: Format) -> Iterator[ImportLine]:
    """Yield the labels of a file, each with the number of the line on which it ends, from 1.

    Raises InvalidInput if the file is not text or lacks a column; TooLarge for more than
    `REVIEW_IMPORT_ROWS_MAX` labels.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"line {line}: byte {error.start + 1} is not valid UTF-8", field="body") from None
    read = _csv_lines(text) if kind == "csv" else _json_lines(text)
    for number, imported in enumerate(read, start=1):
        if number > limits.REVIEW_IMPORT_ROWS_MAX:
            raise TooLarge(f"at most {limits.REVIEW_IMPORT_ROWS_MAX:,} labels in one file", field="body")
        yield imported


def _csv_lines(text: str) -> Iterator[ImportLine]:
    rows = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True)
    try:
        missing = [name for name in REQUIRED if name not in (rows.fieldnames or ())]
        if missing:
            raise InvalidInput(
                f"line 1: the header lacks {', '.join(missing)}; it needs {', '.join(REQUIRED)}",
                field="body",
            )
        for row in rows:
            if "" in row:
                yield ImportLine(rows.line_num, reason="has more fields than the header")
                continue
            given = {name: _cell(name, value) for name, value in row.items() if value not in {None, ""}}
            yield _line(rows.line_num, given, strict=False)
    except csv.Error as error:
        yield ImportLine(rows.line_num, reason=f"is not valid CSV: {error}")


def _json_lines(text: str) -> Iterator[ImportLine]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            given = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            yield ImportLine(number, reason=f"is not valid JSON: {error}")
            continue
        yield _line(number, given, strict=True)


def _line(number: int, given: Any, *, strict: bool) -> ImportLine:
    if isinstance(given, dict):
        given = {name: value for name, value in given.items() if value is not None}
        for name in REQUIRED:
            if name not in given:
                return ImportLine(number, field=name, reason="is missing")
    try:
        label = msgspec.convert(given, ImportedLabel, strict=strict)
    except (msgspec.ValidationError, RecursionError) as error:
        reason, _, place = str(error).partition(" - at `$.")
        return ImportLine(number, field=place.rstrip("`"), reason=reason)
    error_in = unstorable(msgspec.structs.asdict(label) | {"at": None}, "")
    if error_in is not None:
        return ImportLine(number, field=error_in.field.lstrip("."), reason=error_in.reason)
    return ImportLine(number, label)


def _cell(name: str, value: Any) -> Any:
    """Return a cell of a text without the apostrophe that an export puts before a formula."""
    text = value.strip() if name not in _TEXTS else value
    return text[1:] if name in _TEXTS and text.startswith("'") and text[1:].startswith(_FORMULA) else text


class RecordWriter:
    """A writer of a file: its bytes are the results of all calls of `page` and `end` in order.

    In CSV, an apostrophe before a text that a spreadsheet would run marks it as text. The import
    takes it away again.
    """

    def __init__(self, kind: Format, fields: Sequence[str]) -> None:
        self._kind = kind
        self._fields = fields
        self._begun = False

    def page(self, rows: Iterable[Mapping[str, Any]]) -> bytes:
        """Return these rows, with the names of the columns before the first ones of a CSV file."""
        if self._kind == "jsonl":
            return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        text = io.StringIO()
        lines = csv.writer(text)
        if not self._begun:
            lines.writerow(self._fields)
            self._begun = True
        for row in rows:
            lines.writerow([_written(name, row[name]) for name in self._fields])
        return text.getvalue().encode()

    def end(self) -> bytes:
        """Return the header of a CSV file without rows, else nothing."""
        return b"" if self._begun or self._kind == "jsonl" else self.page(())


def _written(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if name in _TEXTS and isinstance(value, str) and value.startswith((*_FORMULA, "'")):
        return f"'{value}"
    return value
