"""Files of labels, cut into parts that one request can carry."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from app.reviews.import_service import ImportReceipt, RejectedLine

ROWS_MAX: Final = 500
_NDJSON: Final = "application/x-ndjson"
_MEDIA_TYPES: Final = {".csv": "text/csv", ".jsonl": _NDJSON, ".ndjson": _NDJSON}


class UnknownKind(ValueError):
    """A file whose name says neither CSV nor JSON Lines."""


class Part(NamedTuple):
    """A part of a file, and the line of the whole file for each line of the part."""

    body: bytes
    media_type: str
    lines: dict[int, int]


def chunks(file: Path) -> Iterator[Part]:
    """Yield the parts of a file. Raises UnknownKind by the end of its name.

    A file that is not valid CSV is one part, so that the server can say what is wrong.
    """
    media_type = _MEDIA_TYPES.get(file.suffix.lower())
    if media_type is None:
        raise UnknownKind(f"its name must end with {', '.join(_MEDIA_TYPES)}; got {file.suffix or 'no end'}")
    body = file.read_bytes()
    try:
        yield from _csv_parts(body) if media_type == "text/csv" else _json_parts(body)
    except (csv.Error, UnicodeDecodeError):
        yield Part(body, media_type, {})


def merged(receipts: Sequence[tuple[Part, ImportReceipt]]) -> ImportReceipt:
    """Return one receipt of all parts, with the lines of the whole file."""
    return ImportReceipt(
        imported=sum(receipt.imported for _, receipt in receipts),
        corrected=sum(receipt.corrected for _, receipt in receipts),
        unchanged=sum(receipt.unchanged for _, receipt in receipts),
        rejected=sum(receipt.rejected for _, receipt in receipts),
        outside_sample=sum(receipt.outside_sample for _, receipt in receipts),
        errors=[
            RejectedLine(part.lines.get(error.line, error.line), error.field, error.reason)
            for part, receipt in receipts
            for error in receipt.errors
        ],
    )


def _json_parts(body: bytes) -> Iterator[Part]:
    lines = body.split(b"\n")
    for start in range(0, len(lines), ROWS_MAX):
        piece = lines[start : start + ROWS_MAX]
        numbers = {number: start + number for number in range(1, len(piece) + 1)}
        yield Part(b"\n".join(piece), _NDJSON, numbers)


def _csv_parts(body: bytes) -> Iterator[Part]:
    rows = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
    read = [(rows.line_num, row) for row in rows]
    header, records = read[:1], read[1:]
    for start in range(0, max(len(records), 1), ROWS_MAX):
        piece = records[start : start + ROWS_MAX]
        text = io.StringIO(newline="")
        csv.writer(text).writerows(row for _, row in [*header, *piece])
        again = csv.reader(io.StringIO(text.getvalue(), newline=""))
        ends = [again.line_num for _ in again]
        numbers = dict(zip(ends, (line for line, _ in [*header, *piece]), strict=True))
        yield Part(text.getvalue().encode(), "text/csv", numbers)
